"""The commands that users type, run whole, killed, stopped, spread over devices and processes."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pddm_jax.training.writer import read_rows
from tests.conftest import LIMIT, free_address

STEPS = 60
VARYING = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def arguments(fashion_root):
    """`arguments(workdir, more...)`: of a short run on a small data set."""

    def arguments(workdir, *more, experiment="fashion_mnist"):
        fields = {
            "data.root": fashion_root,
            "data.images_per_class": 8,
            "train.steps": STEPS,
            "train.eval_every": 20,
            "train.checkpoint_every": 20,
            "train.log_every": 5,
        }
        given = [f"--config.{name}={value}" for name, value in fields.items()]
        return f"experiments.{experiment}", f"--workdir={workdir}", *given, *more

    return arguments


@pytest.fixture(scope="module")
def finished(run_command, arguments, once):
    """The workdir of a run that was left alone, and what the command said."""

    def run(folder):
        status, out, err = run_command(*arguments(folder / "run"))
        assert status == 0, err
        (folder / "said.json").write_text(json.dumps([out, err]), encoding="utf-8")

    folder = once("finished", run)
    return folder / "run", *json.loads((folder / "said.json").read_text(encoding="utf-8"))


def results(workdir):
    return json.loads((workdir / "results.json").read_text(encoding="utf-8"))


def rows(workdir):
    return read_rows(workdir / "metrics.jsonl")


def lasting(workdir):
    """The rows, but for the times in them."""
    return [{name: x for name, x in row.items() if name not in VARYING} for row in rows(workdir)]


def checkpoints(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def wait_until(condition, process):
    """Poll until the condition holds; fail if the process ends before, or after a while."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            out, err = process.communicate()
            pytest.fail(f"ended with {process.returncode} or hung\n{out}\n{err}")
        time.sleep(0.005)


def assert_same_end(workdir, finished):
    assert results(workdir)["params_sha256"] == results(finished)["params_sha256"]
    assert lasting(workdir) == lasting(finished)
    for name in ("recall_at_k", "map_at_r", "r_precision", "steps"):
        assert results(workdir)[name] == results(finished)[name]
    assert checkpoints(workdir) == checkpoints(finished)


# ----------------------------------------------------------------------------------- what a run leaves


def test_a_run_leaves_its_files(finished):
    workdir, out, _ = finished
    assert sorted(path.name for path in workdir.iterdir()) == [
        "checkpoints",
        "config.json",
        "convergence.png",
        "gallery.png",
        "metrics.jsonl",
        "report.html",
        "results.json",
        "tensorboard",
    ]
    for name in ("convergence.png", "gallery.png"):
        with Image.open(workdir / name) as picture:
            picture.load()
            assert min(picture.size) > 100
            assert len(picture.convert("L").getcolors()) > 10
    assert len([*(workdir / "tensorboard").glob("events*")]) == 1
    assert checkpoints(workdir) == [STEPS - 20, STEPS]
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    assert config["train"]["steps"] == STEPS
    assert config["data"]["images_per_class"] == 8
    assert str(workdir) in out


def test_the_rows_of_a_run(finished):
    logged = [row for row in rows(finished[0]) if "loss" in row]
    measured = [row for row in rows(finished[0]) if "recall_at_1" in row]
    assert [row["step"] for row in logged] == [*range(5, STEPS + 1, 5)]
    assert [row["step"] for row in measured] == [20, 40, 60]
    names = {
        "loss",
        "loss_metric",
        "loss_embedding",
        "valid_quadruplets",
        "batches_without_quadruplets",
        "gradient_norm",
        "parameter_norm",
        "images_per_second",
    }
    for row in logged:
        assert names | {"step", "seconds"} == {*row}
        assert row["valid_quadruplets"] > 0
        assert row["batches_without_quadruplets"] == 0
    assert len({row["parameter_norm"] for row in logged}) == len(logged)
    for row in measured:
        assert 0 <= row["map_at_r"] <= row["recall_at_1"] <= 1
        assert 0.1 < row["embedding_std"] <= 1
        assert 1 <= row["effective_rank"] <= 64
    seconds = [row["seconds"] for row in rows(finished[0])]
    assert seconds == sorted(seconds)


def test_the_results_carry_their_protocol(finished):
    found = results(finished[0])
    assert found["experiment"] == "fashion_mnist"
    protocol = found["protocol"]
    assert protocol["data"] == "fashion_mnist"
    assert "0, 2, 4, 6, 8" in protocol["split"]
    assert protocol["classes"] == {"train": 5, "test": 5}
    assert protocol["images"] == {"train": 30_000, "test": 200}
    assert protocol["crop"] == "none"
    assert protocol["network"]["name"] == "small_cnn"
    assert protocol["objective"] == {
        "name": "pddm",
        "mining_scope": "positive",
        "alpha": 0.5,
        "beta": 1.0,
        "weight": 1.0,
        "dtype": "float32",
    }
    assert protocol["seed"] == 0
    for score in ("euclidean", "pddm"):
        recall = found["recall_at_k"][score]
        assert [*recall] == ["1", "2", "4", "8", "16", "32"]
        assert [*recall.values()] == sorted(recall.values())
        assert 0 < recall["1"] <= 1
        assert 0 < found["map_at_r"][score] <= 1
    assert found["steps"] == STEPS
    assert found["seconds"] > 0
    assert found["images_per_second"] > 0
    assert len(found["params_sha256"]) == 64
    assert {"python", "device", "pddm_jax", "jax", "numpy"} <= {*found["versions"]}
    last = rows(finished[0])[-1]
    assert last["recall_at_1"] == found["recall_at_k"]["euclidean"]["1"]
    assert last["map_at_r"] == found["map_at_r"]["euclidean"]


def test_the_table_shows_the_results(finished):
    found = results(finished[0])
    for score in ("euclidean", "pddm"):
        line = next(line for line in finished[1].splitlines() if line.split()[:1] == [score])
        assert line.split()[1] == f"{100 * found['recall_at_k'][score]['1']:.1f}"
        assert line.split()[-1] == f"{100 * found['map_at_r'][score]:.1f}"


def test_a_finished_run_is_shown_again_and_not_run(finished, run_command, arguments):
    workdir, first, _ = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    status, out, _ = run_command(*arguments(workdir))
    assert status == 0
    assert "finished" in out
    assert out.endswith(first)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_another_config_in_the_same_workdir_is_refused(finished, run_command, arguments):
    workdir, given = finished[0], ("--config.seed=1", "--config.optimizer.learning_rate=0.5")
    status, _, err = run_command(*arguments(workdir, *given))
    assert status == 2
    assert_one_line(err)
    for word in ("seed", "optimizer.learning_rate", "0.5", str(workdir)):
        assert word in err
    assert results(workdir)["protocol"]["seed"] == 0


@pytest.mark.long
def test_the_quickstart_runs_with_another_objective_and_fields(run_command, tmp_path):
    status, out, err = run_command(
        "experiments.quickstart",
        f"--workdir={tmp_path}",
        "--config.data.image_size=8",
        "--config.data.classes_per_batch=6",
        "--config.network.embedding_dim=16",
        "--config.objective.name=contrastive",
        "--config.objective.margin=0.75",
        "--config.train.steps=4",
        "--config.train.log_every=3",
        "--config.seed=5",
    )
    assert status == 0, err
    found = results(tmp_path)
    assert found["protocol"]["data"] == "glyphs"
    assert found["protocol"]["image_shape"] == [8, 8, 1]
    assert found["protocol"]["objective"] == {"name": "contrastive", "margin": 0.75}
    assert found["protocol"]["batch"] == {"classes_per_batch": 6, "images_per_class": 4}
    assert found["protocol"]["network"]["embedding_dim"] == 16
    assert found["protocol"]["seed"] == 5
    assert found["recall_at_k"]["pddm"] is None
    assert found["map_at_r"]["pddm"] is None
    assert found["map_at_r"]["euclidean"] > 0
    assert [row["step"] for row in rows(tmp_path)] == [3, 4, 4]
    assert "pddm" not in out
    with Image.open(tmp_path / "gallery.png") as picture:
        picture.load()


def test_compare_shows_runs_that_are_finished(finished, run_command, arguments, tmp_path):
    shutil.copytree(finished[0], tmp_path / "pddm-0")
    module, *given = arguments(tmp_path, experiment="compare")
    config = "--config=experiments/configs/fashion_mnist.py"
    status, out, err = run_command(module, config, *given, "--objectives=pddm", "--seeds=0")
    assert status == 0, err
    summary = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))["objectives"]["pddm"]
    for score, suffix in (("euclidean", ""), ("pddm", ", PDDM score")):
        assert summary[f"Recall@1{suffix}"] == [results(finished[0])["recall_at_k"][score]["1"]]
        assert summary[f"MAP@R{suffix}"] == [results(finished[0])["map_at_r"][score]]
    assert (tmp_path / "compare.md").read_text(encoding="utf-8") in out
    assert lasting(tmp_path / "pddm-0") == lasting(finished[0])


@pytest.mark.long
def test_compare_sets_objectives_side_by_side(run_command, arguments, tmp_path):
    module, *given = arguments(tmp_path, experiment="compare")
    status, out, err = run_command(
        module,
        "--config=experiments/configs/fashion_mnist.py",
        *given,
        "--config.train.steps=4",
        "--config.objective.margin=0.7",
        "--config.objective.name=contrastive",
        "--objectives=contrastive,triplet",
        "--seeds=3,4",
    )
    assert status == 0, err
    summary = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert summary["seeds"] == [3, 4]
    assert {*summary["objectives"]} == {"contrastive", "triplet"}
    for name, margin in (("contrastive", 0.7), ("triplet", 0.2)):
        runs = [results(tmp_path / f"{name}-{seed}") for seed in (3, 4)]
        assert [run["protocol"]["objective"]["margin"] for run in runs] == [margin] * 2
        recalls = [run["recall_at_k"]["euclidean"]["1"] for run in runs]
        assert summary["objectives"][name]["Recall@1"] == recalls
        assert summary["objectives"][name]["Recall@1, PDDM score"] is None
        assert f"| {name} | {50 * sum(recalls):.2f} ± " in out
    assert (tmp_path / "compare.md").read_text(encoding="utf-8") in out
    with Image.open(tmp_path / "convergence.png") as picture:
        picture.load()


# ------------------------------------------------------------------------------------ images on disk


@pytest.fixture(scope="module")
def photos(once):
    """A folder of 14 classes of 4 images, each a noisy pattern in a format and size of its own."""
    return once("photos", draw_photos)


def draw_photos(root):
    rng = np.random.default_rng(0)
    for label in range(14):
        (root / f"class {label}").mkdir()
        pattern = Image.fromarray(rng.integers(0, 156, (8, 8, 3), dtype=np.uint8)).resize((48, 40))
        for number, kind in enumerate(("jpg", "png", "JPEG", "bmp")):
            pixels = np.asarray(pattern) + rng.integers(0, 100, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels[: 30 + number]).save(root / f"class {label}" / f"{number}.{kind}")


@pytest.fixture(scope="module")
def folder_arguments():
    """`folder_arguments(root, workdir, more...)`: of a short run on a folder of images."""

    def folder_arguments(root, workdir, *more):
        fields = {
            "data.root": root,
            "data.image_size": 24,
            "data.classes_per_batch": 4,
            "data.val_class_fraction": 0.3,
            "train.steps": 9,
            "train.eval_every": 2,
            "train.checkpoint_every": 4,
            "train.log_every": 3,
            "train.max_to_keep": 1,
            "train.nmi": True,
        }
        given = [f"--config.{name}={value}" for name, value in fields.items()]
        return "experiments.folder", f"--workdir={workdir}", *given, *more

    return folder_arguments


@pytest.fixture(scope="module")
def folder_run(run_command, photos, folder_arguments, once):
    """The workdir of a run on a folder of images, by two devices."""

    def run(folder):
        status, _, err = run_command(*folder_arguments(photos, folder / "run"), devices=2)
        assert status == 0, err

    return once("folder", run) / "run"


@pytest.mark.long
def test_validation_classes_choose_the_checkpoint(folder_run):
    found = results(folder_run)
    protocol = found["protocol"]
    assert protocol["classes"] == {"train": 5, "test": 7, "validation": 2}
    assert protocol["images"] == {"train": 20, "test": 28, "validation": 8}
    assert protocol["image_shape"] == [24, 24, 3]
    assert 0 <= found["nmi"] <= 1
    recalls = {row["step"]: row["validation_recall_at_1"] for row in rows(folder_run) if "loss" not in row}
    assert [*recalls] == [2, 4, 6, 8, 9]
    best = max(recalls, key=lambda step: (recalls[step], step))
    assert protocol["checkpoint"] == f"step {best}, best by validation"
    assert found["steps"] == 9
    assert checkpoints(folder_run) == sorted({best, 9})


@pytest.mark.long
def test_prepared_images_and_worker_processes_train_to_the_same_bits(
    folder_run, run_command, photos, folder_arguments, tmp_path
):
    given = f"--root={photos}", f"--out={tmp_path / 'records'}", "--shard_images=20"
    status, _, err = run_command("pddm_jax.data.prepare", "--source=folder", *given)
    assert status == 0, err
    records = folder_arguments(tmp_path / "records", tmp_path / "run", "--config.data.workers=2")
    status, _, err = run_command(*records, devices=2)
    assert status == 0, err
    assert_same_end(tmp_path / "run", folder_run)


@pytest.mark.long
def test_a_killed_run_with_validation_goes_on_to_the_same_bits(
    folder_run, start, run_command, photos, folder_arguments, tmp_path
):
    process = start(*folder_arguments(photos, tmp_path), devices=2)
    wait_until(lambda: checkpoints(tmp_path), process)
    process.kill()
    process.communicate()
    assert not (tmp_path / "results.json").exists()
    status, _, err = run_command(*folder_arguments(photos, tmp_path), devices=2)
    assert status == 0, err
    assert_same_end(tmp_path, folder_run)


@pytest.mark.long
def test_an_image_that_cannot_be_read_stops_the_run_or_is_skipped(
    run_command, photos, folder_arguments, tmp_path
):
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    broken = root / "class 3" / "0.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    arguments = folder_arguments(root, tmp_path / "run")
    status, _, err = run_command(*arguments)
    assert status == 2
    assert_one_line(err)
    assert str(broken) in err
    assert "1 of 56" in err
    assert not (tmp_path / "run" / "config.json").exists()
    status, _, err = run_command(*arguments, "--config.data.on_error=skip")
    assert status == 0, err
    protocol = results(tmp_path / "run")["protocol"]
    assert sum(protocol["images"].values()) == 4 * 14 - 1
    assert "1 unreadable images left out" in protocol["split"]
    assert f"left out: {broken}" in err.splitlines()[0]

    records = f"--out={tmp_path / 'records'}"
    status, out, err = run_command(
        "pddm_jax.data.prepare", "--source=folder", f"--root={root}", records, "--on_error=skip"
    )
    assert status == 0, err
    assert "skipped class 3/0.jpg" in out
    status, _, err = run_command(*folder_arguments(tmp_path / "records", tmp_path / "again"))
    assert status == 0, err
    assert "left out: class 3/0.jpg was skipped" in err
    assert_same_end(tmp_path / "again", tmp_path / "run")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["experiments.cars196"], ["data.root", "cars196"]),
        (
            ["experiments.cars196", "--config.data.rot=/nowhere"],
            ["data.rot is not a config field", "data.root?"],
        ),
        (["experiments.cars196", "--config=experiments/configs/cars196.py:papr"], ["'lite0'", "'papr'"]),
        (
            ["experiments.cars196", "--config.dota.root=/nowhere"],
            ["dota.root is not a config field", "data.root?"],
        ),
        (
            ["experiments.cars196", "--config.optimizer.lr=1"],
            ["optimizer.lr is not a config field", "learning_rate"],
        ),
        (["experiments.cars196", "--config.train.steps=x"], ["train.steps must be an integer", "'x'"]),
        (
            [
                "experiments.folder",
                "--config=experiments/configs/folder.py:lite0",
                "--config.train.stps=5",
            ],
            ["train.stps is not a config field", "train.steps?"],
        ),
        (["experiments.cars196", "--config=nowhere.py"], ["--config", "nowhere.py"]),
        (["experiments.cars196", "--config=nowhere.py", "--config.seed=1"], ["nowhere.py"]),
        (["experiments.cars196", "--config.seed=x"], ["seed", "'x'"]),
        (["experiments.cars196", "--config.seed=-1"], ["seed", "-1"]),
        (["experiments.cars196", "--nosuch=1"], ["nosuch"]),
        (["experiments.cars196", "--process_id=1"], ["--process_id", "--distributed"]),
        (["experiments.cars196", "--distributed"], ["coordinator"]),
        (["experiments.cars196", "--config.data.root=/nowhere", "extra"], ["'extra'"]),
        (["experiments.cub200", "--config.data.root=/nowhere"], ["/nowhere", "images.txt"]),
        (["experiments.sop", "--config.data.root=/nowhere"], ["/nowhere", "Ebay_train.txt"]),
        (["experiments.quickstart", "--config.data.crop=bbox"], ["data.crop", "glyphs"]),
        (
            ["experiments.quickstart", "--config.data.val_class_fraction=1.5"],
            ["data.val_class_fraction", "1.5"],
        ),
        (["experiments.icons", "--prepare", "--themes=/nowhere"], ["/nowhere", "oxygen"]),
        (
            ["experiments.quickstart", "--config.objective.mining_scope=pair"],
            ["objective.mining_scope", "'anchor'", "'pair'"],
        ),
        (["experiments.quickstart", "--config.objective.alpha=nan"], ["objective.alpha", "nan"]),
        (
            ["experiments.quickstart", "--config.optimizer.weight_decay=nan"],
            ["optimizer.weight_decay", "nan"],
        ),
        (["experiments.quickstart", "--config.optimizer.learning_rate=inf"], ["learning_rate", "inf"]),
        (["experiments.folder", "--config.data.resize_crop_ratio=nan"], ["data.resize_crop_ratio", "nan"]),
    ],
)
def test_what_is_not_there_is_told_in_one_line(given, words, run_command, tmp_path):
    status, _, err = run_command(*given, f"--workdir={tmp_path}")
    assert status == 2
    assert_one_line(err)
    for word in words:
        assert word in err


def test_help_tells_the_flags_and_where_the_fields_are(run_command):
    _, out, err = run_command("experiments.folder", "--help")
    for word in ("--config", "--workdir", "distributed", "defaults.py"):
        assert word in out, err


def test_images_of_many_sizes_cannot_be_shifted(run_command, photos, folder_arguments, tmp_path):
    status, _, err = run_command(*folder_arguments(photos, tmp_path / "run", "--config.data.augment=shift"))
    assert status == 2
    assert_one_line(err)
    assert "data.augment" in err


def test_pretrained_weights_that_are_not_there_are_named(run_command, photos, folder_arguments, tmp_path):
    given = "--config.network.name=resnet50", f"--config.network.pretrained={tmp_path}/resnet50.pth"
    status, _, err = run_command(*folder_arguments(photos, tmp_path / "run", *given))
    assert status == 2
    assert_one_line(err)
    assert f"{tmp_path}/resnet50.pth" in err


# ---------------------------------------------------------------------------------------------- errors


def assert_one_line(err):
    """An error is said in one line, without a traceback."""
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    assert err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("objective.name=nope", ["objective.name", "'contrastive'", "'pddm'", "'nope'"]),
        ("objective.dtype=float16", ["objective.dtype", "'bfloat16'", "'float16'"]),
        ("objective.margin=0.3", ["objective 'pddm'", "'alpha'", "'margin'"]),
        ("network.name=nope", ["network.name", "'small_cnn'", "'nope'"]),
        ("network.microbatches=0", ["network.microbatches", "an integer from 1 to", "got 0"]),
        ("network.microbatches=3", ["network.microbatches must divide", "5 x 8 / 1", "got 3"]),
        ("data.root=/nowhere/at/all", ["/nowhere/at/all", "data.root"]),
        ("train.log_every=0", ["train.log_every", "0"]),
        ("data.classes_per_batch=6", ["data.classes_per_batch", "6", "only 5 have two images"]),
    ],
)
def test_a_wrong_config_is_told_in_one_line_and_can_be_mended(
    given, words, run_command, arguments, tmp_path
):
    status, out, err = run_command(*arguments(tmp_path, f"--config.{given}"))
    assert status == 2
    assert_one_line(err)
    for word in words:
        assert word in err
    assert not out
    # The same workdir must be free for the config that the user meant.
    assert not (tmp_path / "config.json").exists()


def test_a_field_that_no_config_has_is_refused(run_command, arguments, tmp_path):
    status, _, err = run_command(*arguments(tmp_path / "run", "--config.train.stepz=3"))
    assert status == 2
    assert "stepz" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_run_that_diverges_names_the_step_and_keeps_what_was_good(run_command, arguments, tmp_path):
    # Weight decay of more than 2 / learning_rate: kernels grow by a constant factor each step.
    fields = {"name": "sgd", "schedule": "constant", "learning_rate": 1e-3, "weight_decay": 4e4}
    given = [f"--config.optimizer.{name}={value}" for name, value in fields.items()]
    status, _, err = run_command(*arguments(tmp_path, *given, "--config.train.checkpoint_every=2"))
    assert status == 1
    assert_one_line(err)
    step = int(err.split("diverged at step ")[1].split(":")[0])
    assert 3 < step < STEPS
    good = (step - 1) // 2 * 2
    assert checkpoints(tmp_path) == [good - 2, good]
    assert all(row["step"] < step for row in rows(tmp_path))
    assert not (tmp_path / "results.json").exists()
    (record,) = tmp_path.glob("*.npz")
    assert record.name == f"diverged-step-{step}.npz"
    assert f"--replay={record}" in err.splitlines()[-1]

    status, out, err = run_command("experiments.quickstart", f"--replay={record}")
    assert status == 0, err
    assert out.startswith(f"step {step} of pddm on fashion_mnist, seed 0: 40 images")
    assert out.splitlines()[-1].startswith("not finite first: ")
    status, _, err = run_command("experiments.quickstart", f"--replay={tmp_path / 'config.json'}")
    assert status == 2
    assert_one_line(err)


# ------------------------------------------------------------------------------------ killed and stopped


@pytest.mark.long
def test_a_killed_run_goes_on_to_the_same_bits(start, python, arguments, finished, tmp_path):
    process = start(*arguments(tmp_path))
    wait_until(lambda: checkpoints(tmp_path), process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 0 < checkpoints(tmp_path)[-1] < STEPS
    assert not (tmp_path / "results.json").exists()
    status, _, err = python("-m", *arguments(tmp_path))  # with another seed of hashes
    assert status == 0, err
    assert "step 5 " not in err  # it did not begin anew
    assert_same_end(tmp_path, finished[0])


@pytest.mark.long
def test_a_run_that_was_asked_to_end_goes_on_to_the_same_bits(
    start, end, run_command, arguments, finished, tmp_path
):
    never = f"--config.train.checkpoint_every={STEPS}"  # so that SIGTERM makes the first checkpoint
    process = start(*arguments(tmp_path, never))
    wait_until(lambda: rows(tmp_path), process)
    process.send_signal(signal.SIGTERM)
    status, out, err = end(process)
    assert status == 0, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("ended by SIGTERM: all is saved")
    assert not out
    (saved,) = checkpoints(tmp_path)
    assert rows(tmp_path)[-1]["step"] <= saved < STEPS
    assert not (tmp_path / "results.json").exists()
    status, _, err = run_command(*arguments(tmp_path, never))
    assert status == 0, err
    assert results(tmp_path)["params_sha256"] == results(finished[0])["params_sha256"]
    assert lasting(tmp_path) == lasting(finished[0])
    assert checkpoints(tmp_path) == [saved, STEPS]


@pytest.mark.long
def test_a_killed_run_on_all_cores_goes_on_to_the_same_bits_and_on_other_devices_it_is_told(
    start_python, run_command, arguments, tmp_path
):
    """No number of devices is given; the killed one starts itself anew for huge pages, as a user's does."""
    whole, killed, other = (arguments(tmp_path / name) for name in ("whole", "killed", "other"))
    status, _, err = run_command(*whole, devices=None)
    assert status == 0, err
    process = start_python("-m", *killed, devices=None, GLIBC_TUNABLES=None)
    wait_until(lambda: checkpoints(tmp_path / "killed"), process)
    process.kill()
    process.communicate()
    shutil.copytree(tmp_path / "killed", tmp_path / "other")
    status, _, err = run_command(*killed, devices=None)
    assert status == 0, err
    assert "resumes after step" in err
    assert "may differ" not in err
    assert_same_end(tmp_path / "killed", tmp_path / "whole")

    before = json.loads((tmp_path / "other" / "config.json").read_text(encoding="utf-8"))["devices"]
    now = 1 if before > 1 else 2
    status, _, err = run_command(*other, devices=now)
    assert status == 0, err
    assert f"on {now} devices, {before} before: results may differ" in err


def test_ctrl_c_is_told_in_one_line(start, end, arguments, tmp_path):
    process = start(*arguments(tmp_path))
    wait_until(lambda: rows(tmp_path), process)
    process.send_signal(signal.SIGINT)
    status, _, err = end(process)
    assert status == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("interrupted: ")


@pytest.mark.long
def test_sigterm_while_the_first_step_is_made_saves_it_and_the_run_can_go_on(
    start, end, run_command, arguments, finished, tmp_path
):
    process = start(*arguments(tmp_path))
    wait_until((tmp_path / "checkpoints").exists, process)
    process.send_signal(signal.SIGTERM)
    status, out, err = end(process)
    assert status == 0, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("ended by SIGTERM: all is saved")
    assert not out
    assert checkpoints(tmp_path)
    assert not (tmp_path / "results.json").exists()
    status, _, err = run_command(*arguments(tmp_path))
    assert status == 0, err
    assert results(tmp_path)["params_sha256"] == results(finished[0])["params_sha256"]
    assert lasting(tmp_path) == lasting(finished[0])


def test_sigterm_while_python_starts_ends_it(start_python, end, arguments, tmp_path):
    process = start_python("-m", *arguments(tmp_path))
    process.send_signal(signal.SIGTERM)
    status, _, err = end(process)
    assert status in (143, -signal.SIGTERM), err


# ------------------------------------------------------------------------------- devices and processes


def assert_close_rows(workdir, finished, steps):
    ours, theirs = (
        [row for row in lasting(x) if row["step"] <= steps and "loss" in row] for x in (workdir, finished)
    )
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [*range(5, steps + 1, 5)]
    for our, their in zip(ours, theirs, strict=True):
        for name in ("loss", "loss_metric", "loss_embedding"):
            assert our[name] == pytest.approx(their[name], rel=1e-5), our["step"]


@pytest.mark.long
def test_eight_devices_train_as_one_does(run_command, arguments, finished, tmp_path):
    status, _, err = run_command(*arguments(tmp_path), devices=8)
    assert status == 0, err
    assert results(tmp_path)["versions"]["device"].startswith("8 x ")
    assert_close_rows(tmp_path, finished[0], steps=20)
    ours, theirs = (next(row for row in rows(x) if "recall_at_1" in row) for x in (tmp_path, finished[0]))
    for name in ("step", "recall_at_1", "map_at_r"):
        assert ours[name] == pytest.approx(theirs[name], abs=0.01), name


@pytest.mark.long
def test_a_batch_in_parts_trains_as_the_whole_does(run_command, arguments, tmp_path):
    short = "--config.train.steps=4", "--config.train.log_every=2", "--config.objective.name=contrastive"
    found = []
    for parts in (1, 8):
        workdir, given = tmp_path / str(parts), f"--config.network.microbatches={parts}"
        # No number of devices is given: as many as parts of 5 images are worth, one.
        status, _, err = run_command(*arguments(workdir, *short, given), devices=None if parts > 1 else 1)
        assert status == 0, err
        assert results(workdir)["protocol"]["network"]["microbatches"] == parts
        found.append([row for row in lasting(workdir) if "loss" in row])
    assert [row["step"] for row in found[0]] == [2, 4]
    for whole, in_parts in zip(*found, strict=True):
        assert in_parts == pytest.approx(whole, rel=1e-5)


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(run_command, arguments, tmp_path):
    status, _, err = run_command(
        *arguments(tmp_path, "--config.data.images_per_class=7"),
        devices=8,
    )
    assert status == 2
    assert_one_line(err)
    assert "5 x 7" in err
    assert "8 devices" in err


def said(out):
    """What the project itself printed: Gloo greets its peers there too."""
    return [line for line in out.splitlines() if not line.startswith("[Gloo]")]


def start_two(start, arguments):
    """Two processes that find each other."""
    many = ("--distributed", f"--coordinator={free_address()}", "--num_processes=2")
    return [start(*arguments, *many, f"--process_id={i}") for i in range(2)]


@pytest.mark.long
def test_two_processes_stop_at_one_step_go_on_and_train_as_one_does(
    start, end, arguments, finished, tmp_path
):
    processes = start_two(start, arguments(tmp_path))
    wait_until(lambda: rows(tmp_path), processes[0])
    processes[1].send_signal(signal.SIGTERM)
    for status, out, err in map(end, processes):
        assert status == 0, err
        assert not said(out)
    saved = checkpoints(tmp_path)[-1]
    assert 5 <= saved < STEPS
    assert not (tmp_path / "results.json").exists()

    processes = start_two(start, arguments(tmp_path))
    (first, out, err), (second, other_out, other_err) = map(end, processes)
    assert (first, second) == (0, 0), f"{err}\n{other_err}"
    assert_close_rows(tmp_path, finished[0], steps=15)
    ours, theirs = results(tmp_path), results(finished[0])
    assert ours["versions"]["device"].startswith("2 x ")
    assert ours["recall_at_k"]["euclidean"]["1"] == pytest.approx(
        theirs["recall_at_k"]["euclidean"]["1"], abs=0.02
    )
    assert [row["step"] for row in rows(tmp_path)] == [row["step"] for row in rows(finished[0])]
    assert checkpoints(tmp_path) == sorted({saved, *range(20, STEPS + 1, 20)})[-2:]
    # Only the first of them writes and speaks.
    assert len([*(tmp_path / "tensorboard").glob("events*")]) == 2  # one each time
    assert "euclidean" in out
    assert not said(other_out)
    assert f"step {STEPS} " in err
    assert f"step {STEPS} " not in other_err


def test_the_config_files_of_the_experiments_are_found():
    configs = Path(__file__).parents[2] / "experiments" / "configs"
    names = {path.stem for path in configs.glob("*.py")} - {"__init__", "base", "photos", "transfers"}
    commands = {path.stem for path in configs.parent.glob("*.py")}
    assert names >= {"quickstart", "fashion_mnist", "cars196", "cub200", "sop", "folder", "icons"}
    assert names <= commands
