"""What a run or a command leaves is whole, or is named where it is not; in-process and without training."""

import errno
import json
import os
import shutil
import stat
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import FrozenConfigDict

from experiments.configs import quickstart
from pddm_jax.embedding_store import file_digest, finish, read
from pddm_jax.sharding import data_mesh, replicated
from pddm_jax.system import agreement, signals
from pddm_jax.system.files import (
    NotWritten,
    explained,
    held,
    read_sealed,
    replacing,
    sweep,
    sweep_abandoned,
    write_sealed,
)
from pddm_jax.system.lock import InUse, Lock
from pddm_jax.training import checkpoint_files
from pddm_jax.training.checkpoint import Checkpoints
from pddm_jax.training.checkpoint_files import Damaged, make_record, read_record, read_state
from pddm_jax.training.resume import began, finished, rows_of
from pddm_jax.training.run_files import read_config, read_results
from pddm_jax.training.state import TrainState
from pddm_jax.training.writer import Writer, copy_of, known_rows, read_rows


def state_of(step):
    params = {"network": {"kernel": np.arange(6, dtype=np.float32) + step}}
    return jax.device_put(TrainState(np.int32(step), params, {}, {}), replicated(data_mesh()))


def save(folder, scores, keep=2, about=None):
    with Checkpoints(folder, keep, scored=True) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, state_of(step), score, about)


# --------------------------------------------------------------------------------------------- records


def test_a_record_is_not_changed_by_what_comes_after_it(tmp_path):
    about, scores = {"rows": [1]}, {1: 0.5}
    record = make_record(1, state_of(1), scores, about)
    about["rows"].append(2)
    scores[2] = 0.7
    assert record["about"] == {"rows": [1]}
    assert record["scores"] == {"1": 0.5}
    rows = []
    with Checkpoints(tmp_path, 9) as checkpoints:
        for step in range(1, 4):
            checkpoints.save(step, state_of(step), about={"rows": rows})
            rows.append(step)
    assert [read_record(tmp_path, step).about for step in (1, 2, 3)] == [
        {"rows": []},
        {"rows": [1]},
        {"rows": [1, 2]},
    ]


def test_what_a_checkpoint_knows_of_rows_is_as_small_after_many(tmp_path):
    with Writer(tmp_path, 0, 10, True) as writer:
        writer._bar.disable, writer._event = True, lambda *_, **__: None
        sizes = []
        for step in range(1, 301):
            writer.row(step, {"loss": 1.0})
            sizes.append(len(json.dumps(writer.known(step))))
    assert max(sizes) < 400
    assert writer.known(300)["rows"] == writer.rows[-1:]


# ------------------------------------------------------------------------------- faults of the machine

FAULTS = [
    (MemoryError("no memory"), MemoryError),
    (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), MemoryError),
    (ValueError("RESOURCE_EXHAUSTED: Error reading"), MemoryError),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError),
    (OSError(errno.EIO, "Input/output error"), OSError),
    (ValueError("INTERNAL: Error reading x [OS error 5: EIO Input/output error]"), OSError),
    (OSError(errno.ESTALE, "Stale file handle"), OSError),
    (OSError(errno.EMFILE, "Too many open files"), OSError),
    (PermissionError(errno.EACCES, "Permission denied"), PermissionError),
    (ValueError("PERMISSION_DENIED: x"), PermissionError),
    (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), TimeoutError),
    (ValueError("DEADLINE_EXCEEDED: x"), TimeoutError),
]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    save(folder, {1: 0.1, 2: 0.2})
    return folder


@pytest.mark.parametrize(("error", "kind"), FAULTS)
def test_a_fault_of_the_machine_sets_no_checkpoint_aside(error, kind, two, monkeypatch):
    def failing(*_, **__):
        raise error

    for handler in (ocp.StandardCheckpointHandler, ocp.PyTreeCheckpointHandler):
        monkeypatch.setattr(handler, "restore", failing)
    with pytest.raises(kind, match="cannot be read") as caught:
        read_state(two, 2, state_of(0))
    assert str(two / "2") in str(caught.value)
    with pytest.raises(kind), Checkpoints(two, 2, scored=True) as checkpoints:
        checkpoints.resume(state_of(0))
    assert sorted(path.name for path in two.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("error", [ValueError("DATA_LOSS: x"), KeyError("x"), FileNotFoundError(2, "x")])
def test_what_else_cannot_be_restored_is_damaged(error, two, monkeypatch):
    def failing(*_, **__):
        raise error

    for handler in (ocp.StandardCheckpointHandler, ocp.PyTreeCheckpointHandler):
        monkeypatch.setattr(handler, "restore", failing)
    with pytest.raises(Damaged):
        read_state(two, 2, state_of(0))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EMFILE, errno.EACCES, errno.EIO])
def test_a_record_that_cannot_be_read_now_is_not_damaged(number, two, monkeypatch):
    def failing(_):
        raise OSError(number, os.strerror(number), "the file")

    monkeypatch.setattr(checkpoint_files.Path, "read_bytes", failing)
    with pytest.raises(OSError, match="the file") as caught:
        read_record(two, 2)
    assert caught.value.errno == number


def test_a_record_that_is_a_folder_or_below_a_file_is_damaged(two, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(two, folder)
    (folder / "1" / "record" / "metadata").unlink()
    (folder / "1" / "record" / "metadata").mkdir()
    shutil.rmtree(folder / "2" / "record")
    (folder / "2" / "record").write_bytes(b"")
    for step in (1, 2):
        with pytest.raises(Damaged):
            read_record(folder, step)


# --------------------------------------------------------------------------- the only checkpoint is kept


@pytest.mark.parametrize(
    ("scores", "keep", "left"),
    [
        ({4: 0.5, 6: 0.9}, 1, False),  # 6 is the last and the best
        ({4: 0.9, 6: 0.5}, 1, True),
        ({2: 0.9, 4: 0.5, 6: 0.95}, 2, False),  # 4 is there, but not the best before it
        ({2: 0.5, 4: 0.9, 6: 0.95}, 2, True),
    ],
)
def test_a_checkpoint_is_left_out_only_where_another_can_be_gone_on_from(scores, keep, left, tmp_path):
    save(tmp_path, scores, keep)
    before = sorted(path.name for path in tmp_path.iterdir())
    with Checkpoints(tmp_path, keep, scored=True) as checkpoints:
        assert checkpoints.leave_out(5)  # there is none
        assert checkpoints.leave_out(6) == left
        resumed = checkpoints.resume(state_of(0))
    assert int(resumed.state.step) == (max(step for step in scores if step < 6) if left else 6)
    if not left:
        assert sorted(path.name for path in tmp_path.iterdir()) == before


# ----------------------------------------------------------------------------------------- metrics.jsonl

ROWS = [{"step": step, "loss": float(step), "seconds": step / 2} for step in (2, 4, 4, 5)]


def written(workdir, rows=ROWS):
    with Writer(workdir, 0, 9, True) as writer:
        for row in rows:
            writer.row(row["step"], {"loss": row["loss"]})
        return known_rows({"metrics": json.loads(json.dumps(writer.known(rows[-1]["step"])))}), writer.rows


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def flip(path, place=5):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def digit(path):
    path.write_bytes(path.read_bytes().replace(b"2.0", b"3.0"))


def empty(path):
    path.write_bytes(b"")


DAMAGES = [cut, flip, digit, empty, os.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("copied", [False, True])
def test_rows_are_mended_from_their_copy_and_the_other_way_round(damage, copied, tmp_path, capsys):
    known, rows = written(tmp_path)
    path = tmp_path / "metrics.jsonl"
    damage(copy_of(path) if copied else path)
    with Writer(tmp_path, 5, 9, True, known) as writer:
        assert writer.rows == rows
    assert read_rows(path) == read_rows(copy_of(path)) == rows
    needed = not copied and damage is not cut  # it cut the row that the checkpoint itself knows
    assert ("written again from its copy" in capsys.readouterr().err) == needed


@pytest.mark.parametrize("damage", [flip, digit, empty, os.unlink])
def test_rows_that_are_damaged_twice_are_refused_by_name(damage, tmp_path):
    known, _ = written(tmp_path)
    for path in (tmp_path / "metrics.jsonl", copy_of(tmp_path / "metrics.jsonl")):
        damage(path)
    with pytest.raises(ValueError, match=r"metrics\.jsonl .*its copy .* put one of them back") as caught:
        Writer(tmp_path, 5, 9, True, known)
    assert "\n" not in str(caught.value)


def test_rows_of_the_last_step_of_fewer_are_dropped_however_often_it_is_killed(tmp_path):
    known, rows = written(tmp_path)
    shorter = rows_of(known, {"steps": 9, "log_every": 2, "eval_every": 4})
    for _ in range(2):  # the second time the file is already without them
        with Writer(tmp_path, 5, 9, True, shorter) as writer:
            assert writer.rows == rows[:3]
    assert read_rows(tmp_path / "metrics.jsonl") == rows[:3]


def test_rows_that_an_earlier_version_kept_whole_mend_the_file(tmp_path):
    _, rows = written(tmp_path)
    known = known_rows({"rows": rows})
    digit(tmp_path / "metrics.jsonl")
    copy_of(tmp_path / "metrics.jsonl").unlink()
    with Writer(tmp_path, 5, 9, True, known) as writer:
        assert writer.rows == rows


# ------------------------------------------------------------------------------- config.json, results.json


@pytest.fixture
def config():
    fields = json.loads(quickstart.get_config().to_json())
    return fields | {"image_shape": [9, 9, 1], "devices": 1, "classes": 0, "train_sha256": "0" * 64}


RESULTS = {"evaluation": "x", "protocol": {}, "steps": 5, "params_sha256": "0", "recall": 0.8125}


def test_a_digit_that_changed_in_results_is_seen(tmp_path):
    path = tmp_path / "results.json"
    write_sealed(path, RESULTS)
    assert read_results(tmp_path) == RESULTS
    path.write_text(path.read_text().replace("0.8125", "0.9125"))
    with pytest.raises(ValueError, match=r"results\.json is damaged: it does not have the digest"):
        read_results(tmp_path)
    path.write_text(json.dumps(RESULTS))  # of an earlier version
    assert read_results(tmp_path) == RESULTS


def test_whatever_bit_of_a_sealed_file_flips_it_is_refused_or_the_same(tmp_path):
    path = tmp_path / "x.json"
    write_sealed(path, RESULTS)
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (0, 2, 5):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                assert read_sealed(path, "todo") == RESULTS, (place, bit)
            except ValueError as error:
                assert "x.json is damaged" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("train", "steps", None),
        ("train", "steps", "5"),
        ("train", "eval_every", True),
        ("network", "unit_dim", [4]),
        ("network", "remat", None),
        ("optimizer", "learning_rate", "x"),
        ("data", "image_size", None),
        (None, "seed", None),
        (None, "image_shape", None),
        (None, "image_shape", ["a"]),
        (None, "image_shape", 3),
    ],
)
def test_a_config_without_what_is_promised_is_damaged(group, name, value, config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path) == config
    of = config if group is None else config[group]
    if value is None:
        del of[name]
    else:
        of[name] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"config\.json is damaged: .*{name} (is missing|cannot be)"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["devices", "train_sha256", "seed"])
def test_of_a_damaged_config_the_checkpoint_knows_the_fields(name, config, tmp_path):
    save(tmp_path / "checkpoints", {1: 0.5}, about={"config": config})
    lacking = {key: x for key, x in config.items() if key != name}
    (tmp_path / "config.json").write_text(json.dumps(lacking))
    assert began(tmp_path) == config
    write_sealed(tmp_path / "config.json", config)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert began(tmp_path) == config


def test_results_that_no_table_can_be_made_of_are_refused_by_name(config, tmp_path):
    fields = FrozenConfigDict(config | {"train": config["train"] | {"steps": 5}})
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    assert finished(tmp_path, fields, "x", [lambda results: results["recall"]]) == RESULTS
    for reader in (lambda results: results["map"], lambda results: results["recall"]["1"]):
        with pytest.raises(ValueError, match=r"results\.json is damaged.*delete it"):
            finished(tmp_path, fields, "x", [reader])


# -------------------------------------------------------------------------------------------- embeddings


def about_of(rows):
    return {"rows": {"train": rows - 1, "test": 1}, "columns": 3, "order": "as listed"}


@pytest.fixture
def stored(tmp_path):
    part = tmp_path / ".out.part"
    part.mkdir()
    np.save(part / "embeddings.npy", np.arange(12, dtype=np.float32).reshape(4, 3))
    np.save(part / "labels.npy", np.arange(4))
    np.save(part / "parts.npy", np.zeros(4, np.uint8))
    (part / "names.txt").write_text("a\nb\nc\nd\n")
    (part / "done.json").write_text("4")
    finish(part, tmp_path / "out", about_of(4))
    return tmp_path / "out"


NAMES = ["about.json", "embeddings.npy", "labels.npy", "names.txt", "parts.npy"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", [flip, empty, os.unlink, lambda path: flip(path, -2)])
def test_damage_to_any_file_of_embeddings_is_named(damage, name, stored):
    assert sorted(path.name for path in stored.iterdir()) == NAMES
    np.testing.assert_array_equal(read(stored).embeddings, np.arange(12).reshape(4, 3))
    damage(stored / name)
    with pytest.raises((ValueError, FileNotFoundError), match=name) as caught:
        read(stored)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES[1:])
def test_embeddings_without_digests_must_have_their_shapes(name, stored):
    about = read(stored).about
    del about["files"]
    (stored / "about.json").write_text(json.dumps(about))
    assert len(read(stored).labels) == 4
    path = stored / name
    path.write_bytes(path.read_bytes()[: -8 if name != "parts.npy" else -1])
    with pytest.raises(ValueError, match=name):
        read(stored)


@pytest.mark.parametrize("moment", ["rename", "unlink"])
def test_a_kill_at_the_end_loses_no_embeddings(moment, stored, monkeypatch):
    part = stored.with_name(".out.part")
    stored.rename(part)
    (part / "done.json").write_text("4")
    digests = {name: file_digest(part / name) for name in NAMES[1:]}

    happens = getattr(checkpoint_files.Path, moment)

    def killed(path, *rest, **named):
        if path in (part, stored / "done.json"):
            raise KeyboardInterrupt
        return happens(path, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files.Path, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            finish(part, stored, about_of(4))
    there = part if moment == "rename" else stored
    assert {name: file_digest(there / name) for name in NAMES[1:]} == digests
    assert (there / "done.json").read_text() == "4"
    assert read(there).about["rows"] == {"train": 3, "test": 1}


# ----------------------------------------------------------------------------------- files, locks, folders


def test_what_killed_writes_left_is_swept_when_the_folder_is_locked(tmp_path):
    (tmp_path / f".{'a' * 32}-results.json").write_text("half")
    (tmp_path / f".{'a' * 32}-folder").mkdir()
    others = [f".{'a' * 31}-x", ".hidden", f"{'a' * 32}-x", "results.json"]
    for name in others:
        (tmp_path / name).touch()
    with Lock(tmp_path, "--workdir"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {*others, f".{'a' * 32}-folder"}
    sweep(tmp_path / "nowhere")


def test_a_file_and_its_name_are_on_the_disk_in_turn(tmp_path, monkeypatch):
    order, fsync = [], os.fsync

    def noted(number):
        order.append(("fsync", stat.S_ISDIR(os.fstat(number).st_mode), (tmp_path / "x").exists()))
        fsync(number)

    monkeypatch.setattr(os, "fsync", noted)
    with replacing(tmp_path / "x") as part:
        part.write_bytes(b"x")
    assert order == [("fsync", False, False), ("fsync", True, True)]


def test_a_folder_below_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match="is a file"), explained(tmp_path / "file" / "run"):
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory")


def test_a_folder_in_the_place_of_a_file_is_told(tmp_path):
    (tmp_path / "x").mkdir()
    told = pytest.raises(NotWritten, match="x is a folder where a file belongs")
    with told, replacing(tmp_path / "x") as part:
        part.write_bytes(b"x")
    assert [*tmp_path.iterdir()] == [tmp_path / "x"]


def test_a_full_disk_keeps_no_folder_from_being_locked_and_none_locked(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with (
            Lock(tmp_path, "--workdir"),
            pytest.raises(InUse, match="in use by another process"),
            Lock(tmp_path, "--workdir"),
        ):
            pass
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", full)
        with pytest.raises(OSError, match=r"(?i)no space"), Lock(tmp_path, "--workdir"):
            pass
    with Lock(tmp_path, "--workdir"):
        pass


def test_checkpoints_that_cannot_begin_hand_the_signals_back(tmp_path):
    handlers = [signals.signal.getsignal(number) for number in signals.ENDING]
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match="is a file"), Checkpoints(tmp_path / "file" / "x", 1):
        pass
    assert [signals.signal.getsignal(number) for number in signals.ENDING] == handlers


# ------------------------------------------------------------------------------------- several processes


class Elsewhere(NamedTuple):
    """A process that hears of a problem in another one, and tells its own."""

    problem: str
    told: list[str]

    def __call__(self, problem):
        self.told.append(problem)
        return problem or self.problem


def test_what_fails_in_one_process_ends_the_step_in_all(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(agreement, "any_problem", Elsewhere("no space left for /x", told))
    with pytest.raises(agreement.FailedElsewhere, match="no space left"), agreement.together():
        pass
    with pytest.raises(ValueError, match="mine"), agreement.together():
        raise ValueError("mine")
    with pytest.raises(KeyError), agreement.together():
        raise KeyError
    assert told == ["", "mine", "KeyError"]
    with pytest.raises(agreement.FailedElsewhere), Lock(tmp_path, "--workdir"):
        pass
    with pytest.raises(agreement.FailedElsewhere), Checkpoints(tmp_path / "x", 1):
        pass


def test_temporary_files_of_killed_writers_are_swept_and_those_of_living_ones_are_not(tmp_path):
    left, own = (tmp_path / f".{letter * 32}-x.npz" for letter in "ab")
    left.write_bytes(b"half")
    (tmp_path / ".hidden-x.npz").touch()
    with held(own):
        own.write_bytes(b"some")
        sweep_abandoned(tmp_path)
        assert own.read_bytes() == b"some"
    assert not left.exists()
    sweep_abandoned(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden-x.npz"]
