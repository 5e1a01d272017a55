"""Records of checkpoints, and faults of the machine that are no damage."""

import errno
import json
import os
import shutil

import jax
import orbax.checkpoint as ocp
import pytest

from pddm_jax.training import checkpoint_files
from pddm_jax.training.checkpoint import Checkpoints
from pddm_jax.training.checkpoint_files import Damaged, make_record, read_record, read_state
from pddm_jax.training.writer import Writer
from tests.helpers.training import (
    save,
    state_of,
)


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
            sizes.append(len(json.dumps(writer.digest_fields(step))))
    assert max(sizes) < 400
    assert writer.digest_fields(300)["rows"] == writer.rows[-1:]


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
