"""Commands that are stopped, locked out, short of space or left with damaged files."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from PIL import Image

from experiments import runner
from pddm_jax.system.files import write_json
from pddm_jax.training import setup
from pddm_jax.training.resume import check_same_run, stored_config
from pddm_jax.training.run_files import read_config, read_results
from pddm_jax.training.writer import read_rows
from tests.conftest import LIMIT, free_address

STEPS, EVERY = 12, 4


def draw(root):
    rng = np.random.default_rng(0)
    for label in range(8):
        (root / f"class {label}").mkdir()
        pattern = rng.integers(0, 156, (16, 16, 3), dtype=np.uint8)
        for number in range(3):
            pixels = pattern + rng.integers(0, 100, pattern.shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class {label}" / f"{number}.png")


@pytest.fixture(scope="module")
def arguments(once):
    """`arguments(workdir, more...)`: of a run of a few steps on a few images."""
    root = once("few", draw)

    def arguments(workdir, *more, steps=STEPS):
        fields = {
            "data.root": root,
            "data.image_size": 16,
            "data.classes_per_batch": 2,
            "data.images_per_class": 3,
            "network.embedding_dim": 8,
            "optimizer.schedule": "constant",
            "train.steps": steps,
            "train.eval_every": EVERY,
            "train.checkpoint_every": EVERY,
            "train.log_every": EVERY,
        }
        given = [f"--config.{name}={value}" for name, value in fields.items()]
        return "experiments.folder", f"--workdir={workdir}", *given, *more

    return arguments


@pytest.fixture(scope="module")
def finished(run_command, arguments, once):
    """The workdir of a run that was left alone."""

    def run(folder):
        status, _, err = run_command(*arguments(folder / "run"))
        assert status == 0, err

    return once("recovered", run) / "run"


@pytest.fixture
def stopped(finished, tmp_path):
    """A copy of it, as if it had been killed after its last checkpoint."""
    shutil.copytree(finished, tmp_path / "run")
    for name in ("results.json", "convergence.png", "gallery.png"):
        (tmp_path / "run" / name).unlink()
    return tmp_path / "run"


def results(workdir):
    return json.loads((workdir / "results.json").read_text(encoding="utf-8"))


def lasting(workdir):
    """The rows, but for the times in them."""
    varying = "seconds", "images_per_second"
    return [
        {name: x for name, x in row.items() if name not in varying}
        for row in read_rows(workdir / "metrics.jsonl")
    ]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_same_end(workdir, finished):
    ours, theirs = results(workdir), results(finished)
    for name in ("params_sha256", "recall_at_k", "map_at_r", "steps"):
        assert ours[name] == theirs[name], name
    assert lasting(workdir) == lasting(finished)


def assert_one_line(err, *words):
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert err.splitlines()[-1] == lines[0]
    for word in words:
        assert word in lines[0], err


def wait_until(condition, process):
    deadline = time.monotonic() + LIMIT
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"ended with {process.returncode} or hung\n{process.communicate()}")
        time.sleep(0.005)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


# ---------------------------------------------------------------------------------------- damaged files


@pytest.mark.long
def test_a_run_whose_files_are_damaged_goes_on_to_the_same_bits(stopped, run_command, arguments, finished):
    flip(largest(stopped / "checkpoints" / "12" / "default"))
    (stopped / "config.json").write_bytes(b"")
    path = stopped / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step": 4', b'"st', 1))
    status, _, err = run_command(*arguments(stopped))
    assert status == 0, err
    assert "Traceback" not in err
    (told,) = (line for line in err.splitlines() if line.startswith("checkpoint "))
    assert str(stopped / "checkpoints" / "12") in told
    assert "damaged-12" in told
    assert f"{path} is damaged: line 1 is not a row; restored from its copy" in err
    assert "resumes after step 8" in err
    assert_same_end(stopped, finished)
    assert names(stopped / "checkpoints") == ["12", "8", "damaged-12"]
    assert (stopped / "config.json").read_bytes() == (finished / "config.json").read_bytes()


@pytest.mark.long
def test_where_no_checkpoint_is_intact_a_run_starts_anew(stopped, run_command, arguments, finished):
    (stopped / "checkpoints" / "12" / "default" / "_METADATA").write_text("{")
    shutil.rmtree(stopped / "checkpoints" / "8")
    (stopped / "checkpoints" / "8").mkdir()
    status, _, err = run_command(*arguments(stopped))
    assert status == 0, err
    assert "no usable checkpoint" in err
    assert "starts anew" in err
    assert_same_end(stopped, finished)
    assert names(stopped / "checkpoints") == ["12", "8", "damaged-12", "damaged-8"]


@pytest.mark.long
def test_a_finished_run_with_a_damaged_checkpoint_gives_no_other_parameters(
    finished, run_command, tmp_path
):
    shutil.copytree(finished, tmp_path / "run")
    flip(largest(tmp_path / "run" / "checkpoints" / "12" / "default"))
    before = names(tmp_path / "run" / "checkpoints")
    given = f"--checkpoint={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"
    status, _, err = run_command("pddm_jax.embed", *given)
    assert status not in (0, None)
    assert_one_line(err, "results.json", "checkpoints/12", "damaged")
    assert names(tmp_path / "run" / "checkpoints") == before
    assert names(tmp_path) == ["run"]
    (tmp_path / "run" / "results.json").unlink()  # what is not measured may be an earlier checkpoint
    status, out, err = run_command("pddm_jax.embed", *given)
    assert status == 0, err
    assert "step 8 is taken instead" in err
    assert "step 8 of" in out


DAMAGED = [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"{}", b"{} {}", b"[" * 100_000]


@pytest.mark.long
@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_config_is_that_of_the_checkpoint_or_named(content, stopped, finished):
    (stopped / "config.json").write_bytes(content)
    assert stored_config(stopped) == read_config(finished)
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        read_config(stopped)
    shutil.rmtree(stopped / "checkpoints")
    assert stored_config(stopped) is None  # nothing is lost
    (stopped / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        stored_config(stopped)


@pytest.mark.long
def test_a_missing_config_is_that_of_the_checkpoint_or_named(stopped, finished):
    (stopped / "config.json").unlink()
    assert stored_config(stopped) == read_config(finished)
    for step in ("8", "12"):
        shutil.rmtree(stopped / "checkpoints" / step / "record")  # as of an old run, or worse
    with pytest.raises(ValueError, match=r"holds checkpoints, but no config\.json"):
        stored_config(stopped)


@pytest.mark.parametrize("content", [*DAMAGED, b'{"evaluation": 1}'])
def test_damaged_results_are_named_with_what_to_do(content, tmp_path):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"results\.json is damaged: .*; delete it and repeat") as caught:
        read_results(tmp_path)
    assert "\n" not in str(caught.value)


def config_of(workdir):
    config = ConfigDict(read_config(workdir))
    for name in ("classes", "devices", "image_shape", "train_sha256"):
        del config[name]
    return config


@pytest.mark.long
def test_embeddings_that_are_not_finite_end_training_as_a_step_does(finished, monkeypatch, tmp_path):
    config = config_of(finished)
    config.train.update(steps=2, eval_every=2)
    monkeypatch.setattr(setup, "make_embed", lambda *_: lambda state, batches: np.full((24, 8), np.nan))
    told = r"training diverged at step 2: embeddings of 12 of 12 images = nan; --replay=.*step-2\.npz"
    with pytest.raises(FloatingPointError, match=told):
        runner.run(config, tmp_path, "folder")
    assert not any("recall_at_1" in row for row in read_rows(tmp_path / "metrics.jsonl"))
    assert not names(tmp_path / "checkpoints")


@pytest.mark.long
def test_a_finished_run_is_shown_where_nothing_can_be_written(finished, monkeypatch):
    config = config_of(finished)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    shown = runner.run(config, finished, "folder")
    assert shown | {"sha256": results(finished)["sha256"]} == results(finished)
    config.train.steps += 1
    with pytest.raises(PermissionError, match="--workdir: no permission to write"):
        runner.run(config, finished, "folder")


# ------------------------------------------------------------------------------------------------ locks


@pytest.mark.long
def test_a_second_run_in_a_workdir_ends_in_one_line_and_touches_nothing(
    start, end, run_command, arguments, tmp_path
):
    workdir = tmp_path / "run"
    first = start(*arguments(workdir, steps=100_000))
    wait_until((workdir / "config.json").exists, first)
    status, out, err = run_command(*arguments(workdir, steps=100_000))
    assert status not in (0, None)
    assert_one_line(err, str(workdir), "in use", f"process {first.pid}", "--workdir")
    assert not out
    first.kill()
    end(first)
    assert json.loads((workdir / ".lock").read_text())["pid"] == first.pid
    second = start(*arguments(workdir, steps=100_000))  # the kill has freed it
    wait_until(lambda: f": {second.pid}," in (workdir / ".lock").read_text(), second)
    second.send_signal(signal.SIGTERM)
    end(second)


# ---------------------------------------------------------------------------------------------- signals


def test_sigterm_before_a_step_says_that_nothing_is_saved(start, end, arguments, tmp_path):
    process = start(*arguments(tmp_path / "run"))
    wait_until((tmp_path / "run").exists, process)  # it is locked, and the data is read next
    process.send_signal(signal.SIGTERM)
    status, out, err = end(process)
    if status == 143:
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("ended by SIGTERM: no new step was made")
        assert not (tmp_path / "run").exists()
    else:  # it came later
        assert status == 0, err
        assert names(tmp_path / "run" / "checkpoints")
    assert not out


@pytest.mark.long
def test_sighup_saves_and_the_run_goes_on_to_the_same_bits(start, end, run_command, arguments, tmp_path):
    process = start(*arguments(tmp_path / "run", steps=100_000))
    wait_until(lambda: read_rows(tmp_path / "run" / "metrics.jsonl"), process)
    process.send_signal(signal.SIGHUP)
    status, out, err = end(process)
    assert status == 0, err
    assert err.splitlines()[-1].startswith("ended by SIGHUP: all is saved")
    assert not out
    last = max(int(name) for name in names(tmp_path / "run" / "checkpoints"))
    assert lasting(tmp_path / "run")[-1]["step"] <= last
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.long
def test_two_ctrl_c_in_a_row_are_one_line(start, end, arguments, tmp_path):
    process = start(*arguments(tmp_path / "run", steps=100_000))
    wait_until(lambda: read_rows(tmp_path / "run" / "metrics.jsonl"), process)
    for _ in range(5):
        process.send_signal(signal.SIGINT)
        time.sleep(0.01)
    status, _, err = end(process)
    assert status == 130
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if "interrupted" in line] == [err.splitlines()[-1]]


# -------------------------------------------------------------------------------------- more steps later


@pytest.mark.long
def test_a_finished_run_is_extended_to_what_the_longer_one_is(finished, run_command, arguments, tmp_path):
    status, _, err = run_command(*arguments(tmp_path / "short", steps=6))  # its last step is not due in 12
    assert status == 0, err
    status, _, err = run_command(*arguments(tmp_path / "short"))
    assert status == 0, err
    assert "resumes after step 6" in err
    assert_same_end(tmp_path / "short", finished)
    assert json.loads((tmp_path / "short" / "results-6.json").read_text())["steps"] == 6
    assert json.loads((tmp_path / "short" / "config.json").read_text())["train"]["steps"] == STEPS
    config = ConfigDict(read_config(tmp_path / "short"))
    config.train.steps = 6
    with pytest.raises(ValueError, match=r"train\.steps 12 \(here 6\)"):
        check_same_run(tmp_path / "short", FrozenConfigDict(config))


@pytest.mark.long
def test_a_run_whose_rate_depends_on_its_steps_is_not_extended(stopped):
    config = read_config(stopped)
    longer = ConfigDict(config | {"train": config["train"] | {"steps": 2 * STEPS}})
    check_same_run(stopped, FrozenConfigDict(longer))
    config["optimizer"]["schedule"] = longer.optimizer.schedule = "cosine"
    write_json(stopped / "config.json", config)
    shutil.rmtree(stopped / "checkpoints")  # which know of another schedule
    told = rf"12 train\.steps.*optimizer\.schedule 'cosine'.*24.*--config\.network\.pretrained={stopped}"
    with pytest.raises(ValueError, match=told):
        check_same_run(stopped, FrozenConfigDict(longer))
    longer.seed = 5
    with pytest.raises(ValueError, match=r"seed 0 \(here 5\), train\.steps 12 \(here 24\)"):
        check_same_run(stopped, FrozenConfigDict(longer))


# ------------------------------------------------------------------------------------- a peer that is lost


@pytest.mark.long
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_whose_peer_is_killed_ends_in_one_line(killed, start, end, arguments, tmp_path):
    many = ("--distributed", f"--coordinator={free_address()}", "--num_processes=2")
    given = arguments(tmp_path / "run", *many, "--config.data.classes_per_batch=4", steps=100_000)
    processes = [start(*given, f"--process_id={i}") for i in range(2)]
    wait_until(lambda: read_rows(tmp_path / "run" / "metrics.jsonl"), processes[0])
    processes[killed].kill()
    since = time.monotonic()
    status, _, err = end(processes[1 - killed])
    assert time.monotonic() - since < 60
    assert status not in (0, None)
    assert_one_line(err, "another process")
    assert "***" not in err
    assert "E1" not in err


# ------------------------------------------------------------------------------------------- no more space


@pytest.fixture
def small_disk(tmp_path):
    """`small_disk(size)`: a file system of this size, where one can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def small_disk(size):
        option = "remount," if os.path.ismount(folder) else ""
        if os.system(f"mount -t tmpfs -o {option}size={size} none {folder} 2>/dev/null"):
            pytest.skip("no file system can be mounted here")
        return folder

    yield small_disk
    os.system(f"umount {folder} 2>/dev/null")


@pytest.mark.long
def test_a_full_disk_is_one_line_and_with_space_the_run_goes_on_to_the_same_bits(
    small_disk, run_command, arguments, finished
):
    files = [path for path in (finished / "checkpoints" / "8").rglob("*") if path.is_file()]
    workdir = small_disk(int(1.5 * sum(path.stat().st_size for path in files))) / "run"
    status, _, err = run_command(*arguments(workdir))
    assert status not in (0, None)
    assert_one_line(err, "no space left", str(workdir), "checkpoint is step 4")
    assert not (workdir / "results.json").exists()
    small_disk("100m")
    status, _, err = run_command(*arguments(workdir))
    assert status == 0, err
    assert "resumes after step 4" in err
    assert_same_end(workdir, finished)
