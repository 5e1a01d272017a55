"""Runs from Python: the bits of the command, exact resumption, and runs of all experiments loaded."""

import json
import shutil

import jax
import matplotlib
import numpy as np
import PIL
import pytest

import pddm_jax
from experiments.configs import folder
from pddm_jax.data import glyphs
from pddm_jax.data.listing import read_names
from pddm_jax.training.provenance import digest
from tests.helpers.small_runs import FIELDS, LABELS, Flat, assert_equal_bits, leaves, noisy, write_pngs

SMALL = FIELDS | {"data.image_size": 8, "optimizer.schedule": "cosine"}
STEPS = 4


def flags(fields):
    return [f"--config.{name}={value}" for name, value in fields.items()]


def lines_of(error):
    """The message of an error, which has one line."""
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


def rows(workdir):
    """The rows of metrics.jsonl, but for the times in them."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    varying = "seconds", "images_per_second"
    return [{name: x for name, x in json.loads(line).items() if name not in varying} for line in lines]


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


# --------------------------------------------------------------------------------- the bits of a command

FOLDER = SMALL | {"train.steps": STEPS, "train.eval_every": 2, "train.log_every": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    write_pngs(root, classes=16, each=9)
    return root


@pytest.fixture(scope="module")
def commanded(run_command, photos, tmp_path_factory):
    """A folder with `run`, trained by the command on half of the classes, and `embedded`, all images."""
    base = tmp_path_factory.mktemp("commanded")
    given = flags(FOLDER | {"data.root": photos})
    for name, *arguments in (
        ("experiments.folder", f"--workdir={base / 'run'}", *given),
        ("pddm_jax.embed", f"--checkpoint={base / 'run'}", f"--out={base / 'embedded'}"),
    ):
        status, _, err = run_command(name, *arguments)
        assert status == 0, err
    return base


def chosen_fields():
    """The fields in which the config of the folder experiment differs from the defaults."""
    fields = folder.get_config().to_dict()
    names = ("augment", "min_crop_area", "flip", "color_jitter", "resize_crop_ratio")
    chosen = {f"data.{name}": fields["data"][name] for name in names}
    chosen["optimizer.pddm_lr_multiplier"] = fields["optimizer"]["pddm_lr_multiplier"]
    return chosen | {name: x for name, x in FOLDER.items() if name != "train.steps"}


@pytest.fixture(scope="module")
def called(run_command, commanded, photos, tmp_path_factory):
    """The same training by `pddm_jax.train` on the files, in a process with the flags of the command."""
    base = tmp_path_factory.mktemp("called")
    names = np.array(read_names(commanded / "embedded" / "names.txt"))
    parts = np.load(commanded / "embedded" / "parts.npy")
    files = [[str(photos / name) for name in names[parts == part]] for part in (0, 1)]
    classes = [[name.split("/")[-2] for name in part] for part in files]
    assert [len(part) for part in files] == [72, 72]
    task = {
        "train": {
            "images": files[0],
            "labels": classes[0],
            "test_images": files[1],
            "test_labels": classes[1],
            "workdir": str(base / "run"),
            "steps": STEPS,
            "config": chosen_fields(),
        },
        "of": str(commanded / "run"),
        "embed": [str(photos / name) for name in names],
        "out": str(base / "embedded.npy"),
        "state": str(base / "state.npz"),
    }
    (base / "task.json").write_text(json.dumps(task), encoding="utf-8")
    status, _, err = run_command("tests.helpers.small_runs", base / "task.json")
    assert status == 0, err
    return base


@pytest.mark.long
def test_train_and_the_command_give_the_same_parameters(commanded, called):
    ours, theirs = pddm_jax.load(called / "run"), pddm_jax.load(commanded / "run")
    assert ours.step == theirs.step == STEPS
    assert_equal_bits(ours, theirs)
    with np.load(called / "state.npz") as returned:
        assert {*returned} == {*leaves(ours)}
        for name, leaf in leaves(ours).items():
            np.testing.assert_array_equal(returned[name], leaf, err_msg=name)


@pytest.mark.long
def test_train_and_the_command_evaluate_alike(commanded, called):
    found = rows(called / "run")
    assert found == rows(commanded / "run")
    assert [row["step"] for row in found if "recall_at_1" in row] == [2, 4]


@pytest.mark.long
def test_embed_and_the_command_give_the_same_embeddings(commanded, called):
    ours, theirs = np.load(called / "embedded.npy"), np.load(commanded / "embedded" / "embeddings.npy")
    assert ours.shape == (144, 4)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)


# ---------------------------------------------------------------------------------------- exact resume


def train(workdir, steps=STEPS, **more):
    fields = FIELDS | {"train.checkpoint_every": 2} | more.pop("config", {})
    given = {"images": noisy(1), "labels": LABELS, "network": Flat()} | more
    return pddm_jax.train(workdir=workdir, steps=steps, config=fields, **given)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return train(tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.mark.long
def test_more_steps_end_as_an_undisturbed_run(undisturbed, tmp_path):
    assert train(tmp_path, 1).step == 1
    assert train(tmp_path, 3).step == 3
    run = train(tmp_path, STEPS)
    assert run.step == STEPS
    assert_equal_bits(run, undisturbed)
    assert_equal_bits(pddm_jax.load(tmp_path, Flat()), undisturbed)


@pytest.mark.long
def test_a_run_without_its_last_checkpoint_makes_those_steps_again(undisturbed, tmp_path):
    shutil.copytree(undisturbed.workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
    assert pddm_jax.load(tmp_path / "run", Flat()).step == STEPS - 2
    assert_equal_bits(train(tmp_path / "run"), undisturbed)
    assert rows(tmp_path / "run") == rows(undisturbed.workdir)


@pytest.mark.long
def test_the_same_call_again_makes_no_step(undisturbed, tmp_path):
    shutil.copytree(undisturbed.workdir, tmp_path / "run")
    metrics = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    checkpoints = times(tmp_path / "run" / "checkpoints")
    assert_equal_bits(train(tmp_path / "run"), undisturbed)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == metrics
    assert times(tmp_path / "run" / "checkpoints") == checkpoints


@pytest.mark.long
def test_other_seeds_are_other_runs(undisturbed, tmp_path):
    ours, theirs = leaves(train(tmp_path, seed=1)), leaves(undisturbed)
    assert any(not np.array_equal(leaf, theirs[name]) for name, leaf in ours.items())


def other_loss(params, embeddings, labels):
    return pddm_jax.triplet_loss(embeddings, labels), {}


@pytest.mark.long
@pytest.mark.parametrize(
    "other",
    [
        {"images": noisy(1, seed=9)},
        {"images": [*noisy(1)]},
        {"images": noisy(1)[:-1], "labels": LABELS[:-1]},
        {"labels": np.roll(LABELS, 1)},
        {"network": Flat(5)},
        {"network": "small_cnn"},
        {"objective": "triplet"},
        {"objective": other_loss},
        {"seed": 1},
        {"steps": 2},
        {"config": {"optimizer.learning_rate": 0.5}},
    ],
    ids=lambda other: " ".join(other),
)
def test_another_call_in_the_same_workdir_is_refused(undisturbed, other):
    before = times(undisturbed.workdir)
    with pytest.raises(ValueError, match=r".") as error:
        train(undisturbed.workdir, **other)
    assert str(undisturbed.workdir) in lines_of(error)
    assert times(undisturbed.workdir) == before


@pytest.mark.long
def test_other_pixels_in_a_sequence_are_refused(tmp_path):
    given = {"config": {"data.image_size": 8}, "workdir": tmp_path, "steps": 1}
    train(images=[*noisy(1)], **given)
    with pytest.raises(ValueError, match="images") as error:
        train(images=[*noisy(1)[:-1], noisy(1, seed=9)[-1]], **given)
    assert str(tmp_path) in lines_of(error)


# ------------------------------------------------------------------------------- runs of all experiments

GLYPHS = {"train.checkpoint_every": 1, "train.log_every": 1, "train.steps": 3}
RUNS = {
    "softmax": ("quickstart", {"objective.name": "softmax"}),
    "triplet": (
        "quickstart",
        {"objective.name": "triplet", "data.val_class_fraction": 0.4, "train.eval_every": 1},
    ),
    "transfer": (
        "imagenet2010",
        {"transfer.ways": "(5,)", "transfer.neighbours": "(1,)", "transfer.probe_steps": 2},
    ),
    "zero_shot": ("zero_shot", {"zero_shot.ranking_steps": 2, "zero_shot.conse_top": 3}),
}


@pytest.fixture(scope="module")
def few_glyphs(tmp_path_factory):
    """A cached rendering that holds 32 letters only, eight patterns of each."""
    root, rng = tmp_path_factory.mktemp("glyphs"), np.random.default_rng(2)
    characters = [*range(ord("A"), ord("Q")), *range(ord("a"), ord("q"))]
    labels = np.repeat(np.arange(len(characters), dtype=np.int32), 8)
    images = rng.integers(0, 128, (len(characters), 8, 8, 1))[labels] + rng.integers(
        0, 128, (len(labels), 8, 8, 1)
    )
    versions = f"{glyphs.LAYOUT}-matplotlib{matplotlib.__version__}-pillow{PIL.__version__}"
    np.savez(
        root / f"glyphs-8-{versions}.npz",
        images=images.astype(np.uint8),
        labels=labels,
        characters=np.array([*zip(characters, range(len(characters)), strict=True)], np.int32),
    )
    return root


@pytest.fixture(scope="module")
def experiments(start, end, few_glyphs, tmp_path_factory):
    """The workdirs of finished runs, by the names of RUNS."""
    base, processes = tmp_path_factory.mktemp("experiments"), {}
    for name, (experiment, fields) in RUNS.items():
        config = ["--config=experiments/configs/imagenet2010.py:glyphs"] if name == "transfer" else []
        given = flags(SMALL | GLYPHS | {"data.root": few_glyphs} | fields)
        workdir = f"--workdir={base / name}"
        processes[name] = start(f"experiments.{experiment}", *config, workdir, *given)
    for name, process in processes.items():
        status, _, err = end(process)
        assert status == 0, (name, err)
    return base


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_a_run_of_an_experiment_is_loaded(name, experiments, capfd):
    workdir = experiments / name
    before = times(workdir)
    capfd.readouterr()
    run = pddm_jax.load(workdir)
    embeddings = run.embed(np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8))
    assert capfd.readouterr() == ("", "")
    assert times(workdir) == before
    results = json.loads((workdir / "results.json").read_text(encoding="utf-8"))
    assert digest(run.state) == results["params_sha256"]
    assert results["protocol"]["checkpoint"].startswith(f"step {run.step}, ")
    assert run.workdir == workdir
    assert run.config["objective"]["name"] == RUNS[name][1].get("objective.name", "pddm")
    assert embeddings.shape == (3, 4)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert {*run.state.params} == {"network", "unit"} | ({"classifier"} if name == "softmax" else set())


@pytest.mark.long
def test_a_workdir_is_a_string_or_a_path(experiments, monkeypatch):
    run = pddm_jax.load(experiments / "softmax")
    monkeypatch.chdir(experiments)
    assert_equal_bits(pddm_jax.load("softmax"), run)


@pytest.fixture
def unfinished(experiments, tmp_path):
    """A run that was killed before it was evaluated, with checkpoints of steps 2 and 3."""
    shutil.copytree(experiments / "softmax", tmp_path / "run")
    (tmp_path / "run" / "results.json").unlink()
    return tmp_path / "run"


def damage(workdir, step):
    """Change a byte of the largest file of a checkpoint."""
    files = [path for path in (workdir / "checkpoints" / str(step)).rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


@pytest.mark.long
def test_an_unfinished_run_is_loaded_at_its_last_checkpoint(unfinished, experiments):
    assert_equal_bits(pddm_jax.load(unfinished), pddm_jax.load(experiments / "softmax"))
    shutil.rmtree(unfinished / "checkpoints" / "3")
    assert pddm_jax.load(unfinished).step == 2


@pytest.mark.long
def test_an_unfinished_run_with_a_damaged_checkpoint_is_that_of_the_one_before(unfinished, tmp_path, capfd):
    shutil.copytree(unfinished, tmp_path / "whole")
    shutil.rmtree(tmp_path / "whole" / "checkpoints" / "3")
    damage(unfinished, 3)
    capfd.readouterr()
    run = pddm_jax.load(unfinished)
    assert capfd.readouterr() == ("", "")
    assert run.step == 2
    assert_equal_bits(run, pddm_jax.load(tmp_path / "whole"))


@pytest.mark.long
def test_a_finished_run_with_a_damaged_checkpoint_is_refused(experiments, tmp_path):
    shutil.copytree(experiments / "softmax", tmp_path / "run")
    damage(tmp_path / "run", 3)
    with pytest.raises(ValueError, match=r"checkpoints/3.*damaged") as error:
        pddm_jax.load(tmp_path / "run")
    lines_of(error)


@pytest.mark.long
def test_what_is_no_run_is_refused(unfinished, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("", encoding="utf-8")
    for name, kind in (("nothing", FileNotFoundError), ("empty", FileNotFoundError), ("file", OSError)):
        with pytest.raises(kind, match=name) as error:
            pddm_jax.load(tmp_path / name)
        assert "run" in lines_of(error)
        assert not (tmp_path / "nothing").exists()
    assert not [*(tmp_path / "empty").iterdir()]
    shutil.rmtree(unfinished / "checkpoints")
    with pytest.raises(FileNotFoundError, match="no checkpoint") as error:
        pddm_jax.load(unfinished)
    assert str(unfinished) in lines_of(error)


@pytest.mark.long
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"seed": 0}', "\0"])
def test_a_damaged_config_is_named(content, unfinished):
    (unfinished / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json is damaged") as error:
        pddm_jax.load(unfinished)
    assert str(unfinished) in lines_of(error)


@pytest.mark.parametrize("value", [None, 3, ["runs/mine"], b"runs", "", "\0"])
def test_what_is_no_path_is_refused(value):
    with pytest.raises((ValueError, OSError), match="workdir") as error:
        pddm_jax.load(value)
    lines_of(error)


@pytest.mark.long
def test_a_run_with_a_module_needs_it_again(undisturbed):
    with pytest.raises(ValueError, match="network") as error:
        pddm_jax.load(undisturbed.workdir)
    assert "Flat" in lines_of(error)
    for other in (Flat(5), Flat, "small_cnn", 3):
        with pytest.raises(ValueError, match="network") as error:
            pddm_jax.load(undisturbed.workdir, other)
        lines_of(error)


@pytest.mark.long
def test_what_train_returns_is_what_load_returns(undisturbed, capfd):
    capfd.readouterr()
    loaded = pddm_jax.load(undisturbed.workdir, network=Flat())
    assert capfd.readouterr() == ("", "")
    assert_equal_bits(loaded, undisturbed)
    assert loaded.config == undisturbed.config
    np.testing.assert_array_equal(loaded.embed(noisy(1)), undisturbed.embed(noisy(1)))
    assert str(undisturbed.workdir) in repr(loaded)
    assert "Flat" in repr(loaded)


@pytest.mark.long
def test_the_parameters_are_on_the_devices(undisturbed):
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(undisturbed.state.params))
