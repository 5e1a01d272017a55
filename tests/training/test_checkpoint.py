"""Checkpoints: kept, verified, set aside, restored, and signals meanwhile."""

import json
import shutil
import signal
import tempfile
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from pddm_jax.sharding import data_mesh, replicated
from pddm_jax.system import signals
from pddm_jax.system.files import NotWritten
from pddm_jax.training.checkpoint import Checkpoints, Preempted
from pddm_jax.training.checkpoint_files import Damaged, restore_chosen
from tests.helpers.training import copy, make_problem, save, state_of


def test_checkpoints_come_back_to_the_bit_and_the_last_ones_are_kept(tmp_path):
    problem = make_problem("pddm", "adamw", 0.01)
    state, saved = problem.state, None
    with Checkpoints(tmp_path / "checkpoints", max_to_keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in range(1, 5):
            state, _ = problem.step(state, problem.batch)
            saved = copy(state)
            checkpoints.save(step, state)
            checkpoints.save(step, state)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]
    with Checkpoints(tmp_path / "checkpoints", max_to_keep=2) as checkpoints:
        assert checkpoints.latest_step() == 4
        restored = checkpoints.restore(4, make_problem("pddm", "adamw", 0.01).state)
        assert checkpoints.best_step() is None
        assert not checkpoints.preempted(5)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)
    again, _ = problem.step(restored, problem.batch)
    straight, _ = problem.step(state, problem.batch)
    jax.tree.map(np.testing.assert_array_equal, copy(again), copy(straight))


def test_the_checkpoint_of_best_score_is_kept_beside_the_last_ones(tmp_path):
    problem = make_problem()
    state, saved = problem.state, {}
    with Checkpoints(tmp_path, max_to_keep=1, scored=True) as checkpoints:
        for step, score in enumerate([0.3, 0.9, 0.5, None], 1):
            state, _ = problem.step(state, problem.batch)
            saved[step] = copy(state)
            checkpoints.save(step, state, score)
        assert checkpoints.best_step() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]
    with Checkpoints(tmp_path, max_to_keep=1, scored=True) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 2)
        restored = checkpoints.restore(2, make_problem().state)
    jax.tree.map(np.testing.assert_array_equal, restored, saved[2])


SCORES = {1: 0.3, 2: 0.9, 3: 0.5}


@cache
def three_checkpoints():
    """Three states, and a folder of the checkpoints of each kind; the best is of step 2."""
    root, saved = Path(tempfile.mkdtemp()), {}
    problem = make_problem("pddm", "adamw", 0.01)
    state = problem.state
    with Checkpoints(root / "plain", 2) as plain, Checkpoints(root / "scored", 2, scored=True) as scored:
        for step, score in SCORES.items():
            state, _ = problem.step(state, problem.batch)
            saved[step] = copy(state)
            plain.save(step, state, about={"rows": [step]})
            scored.save(step, state, score)
    return root, saved


@pytest.fixture
def three(tmp_path):
    """`three(kind)`: a copy of the folder, and the states."""
    root, saved = three_checkpoints()

    def three(kind):
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        return Path(shutil.copytree(root / kind, tmp_path / kind)), saved

    return three


def resume(folder, scored=False):
    with Checkpoints(folder, 2, scored) as checkpoints:
        return checkpoints.resume(make_problem("pddm", "adamw", 0.01).state)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        truncate,
        pytest.param(Path.unlink, marks=pytest.mark.long),
        pytest.param(lambda path: path.write_bytes(b""), marks=pytest.mark.long),
    ],
)
def test_whatever_file_is_damaged_a_state_that_was_saved_comes_back_in_one_line(damage, three, capfd):
    folder, saved = three("plain")
    files = [path.relative_to(folder) for path in sorted((folder / "3").rglob("*")) if path.is_file()]
    found = {}
    for file in files:
        three("plain")
        damage(folder / file)
        resumed = resume(folder)
        step = int(resumed.state.step)
        jax.tree.map(np.testing.assert_array_equal, resumed.state, saved[step])
        err = capfd.readouterr().err.splitlines()
        told = [line for line in err if f"{folder / '3'} is damaged: " in line and "damaged-3" in line]
        # A checkpoint whose record is gone with all that names it is as one of old.
        assert [line for line in err if "has no digests" not in line] == (told if step == 2 else [])
        assert (folder / "damaged-3").is_dir() == (step == 2)
        found[file] = step
    assert {*found.values()} == {2, 3}
    needed = Path("3/record/metadata"), *(file for file in files if file.match("3/default/d/*"))
    assert {found[file] for file in needed} == {2}


@pytest.mark.parametrize("array", range(6))
def test_every_array_is_verified(array, three, tmp_path):
    """Saved by Orbax with one bit of one array changed, under the record of what was to be saved."""
    folder, saved = three("plain")
    leaves, structure = jax.tree.flatten(saved[3])
    place = array * (len(leaves) - 1) // 5
    changed = np.array(leaves[place])
    changed.reshape(-1).view(np.uint8)[-1] ^= 1
    state = jax.tree.unflatten(structure, [*leaves[:place], changed, *leaves[place + 1 :]])
    with Checkpoints(tmp_path / "other", 1) as checkpoints:
        checkpoints.save(3, jax.device_put(state, replicated(data_mesh())))
    shutil.rmtree(folder / "3" / "default")
    shutil.copytree(tmp_path / "other" / "3" / "default", folder / "3" / "default")
    assert int(resume(folder).state.step) == 2


def test_a_damaged_checkpoint_that_may_be_the_best_is_made_again(three, capfd):
    folder, saved = three("scored")
    assert int(resume(folder, scored=True).state.step) == 3
    path = folder / "3" / "metrics" / "metrics"
    path.write_text(path.read_text().replace("0.5", "0.95"))
    resumed = resume(folder, scored=True)  # else 3 would be chosen
    jax.tree.map(np.testing.assert_array_equal, resumed.state, saved[2])
    assert "its score is 0.95, and was 0.5" in capfd.readouterr().err
    three("scored")
    flip(max((folder / "2" / "default").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()))
    assert resume(folder, scored=True) is None  # what follows it would be the best instead
    assert sorted(path.name for path in folder.iterdir()) == ["damaged-2", "unused-3"]
    assert "the run starts anew" in capfd.readouterr().err
    three("scored")
    shutil.rmtree(folder / "2")
    assert resume(folder, scored=True) is None
    assert "of step 2, is missing" in capfd.readouterr().err


def test_of_damaged_checkpoints_a_reader_takes_the_next_and_changes_nothing(three):
    like = make_problem("pddm", "adamw", 0.01).state
    folder, saved = three("scored")
    state, told = restore_chosen(folder, like, scored=True)
    assert (int(state.step), told) == (2, "")
    truncate(folder / "2" / "record" / "metadata")
    before = sorted(folder.rglob("*"))
    state, told = restore_chosen(folder, like, scored=True)
    jax.tree.map(np.testing.assert_array_equal, state, saved[3])
    assert f"{folder / '2'} is damaged: record/metadata cannot be read" in told
    assert sorted(folder.rglob("*")) == before
    (folder / "3" / "default" / "_METADATA").unlink()
    with pytest.raises(Damaged, match=r"2 is damaged: .*3 is damaged: "):
        restore_chosen(folder, like, scored=True)


def test_an_intact_checkpoint_of_another_network_is_not_taken_for_a_damaged_one(three):
    folder, _ = three("plain")
    with (
        Checkpoints(folder, 2) as checkpoints,
        pytest.raises(ValueError, match=r"another network or optimizer.*opt_state") as caught,
    ):
        checkpoints.resume(make_problem("pddm", "sgd", 0.01).state)
    assert not isinstance(caught.value, Damaged)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]


def test_a_checkpoint_of_a_run_without_records_comes_back(three, capfd):
    folder, saved = three("plain")
    shutil.rmtree(folder / "3" / "record")
    overview = folder / "3" / "_CHECKPOINT_METADATA"
    told = json.loads(overview.read_text())
    del told["item_handlers"]["record"]
    overview.write_text(json.dumps(told))
    resumed = resume(folder)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, saved[3])
    assert resumed.about is None
    assert "has no digests" in capfd.readouterr().err


def test_a_checkpoint_says_what_the_run_was_about(three):
    assert resume(three("plain")[0]).about == {"rows": [3]}


def test_sigterm_is_noted_and_ends_the_block_with_status_0_and_the_old_handler(tmp_path):
    handler, state = signal.getsignal(signal.SIGTERM), make_problem().state

    def stopped():
        with Checkpoints(tmp_path, max_to_keep=1) as checkpoints:
            assert not checkpoints.preempted(1)
            signal.raise_signal(signal.SIGTERM)
            assert checkpoints.preempted(2)
            checkpoints.save(2, state)

    with pytest.raises(Preempted) as caught:
        stopped()
    assert caught.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_an_error_in_the_block_is_not_hidden_by_sigterm(tmp_path):
    def failed():
        with Checkpoints(tmp_path, max_to_keep=1):
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        failed()


def test_orbax_collects_no_io_metrics_whose_memory_is_never_freed(tmp_path, monkeypatch):
    tensorstore_utils = pytest.importorskip("orbax.checkpoint._src.serialization.tensorstore_utils")
    assert hasattr(tensorstore_utils, "get_tensorstore_raw_bytes")
    calls = []
    collect = tensorstore_utils.ts.experimental_collect_matching_metrics
    monkeypatch.setattr(
        tensorstore_utils.ts,
        "experimental_collect_matching_metrics",
        lambda *given: calls.append(given) or collect(*given),
    )
    problem = make_problem("pddm", "adamw", 0.01)
    state, _ = problem.step(problem.state, problem.batch)
    with Checkpoints(tmp_path, 2) as checkpoints:
        checkpoints.save(1, state)
    with Checkpoints(tmp_path, 2) as checkpoints:
        assert checkpoints.resume(state) is not None
    assert not calls


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
        assert checkpoints.mark_unused(5)  # there is none
        assert checkpoints.mark_unused(6) == left
        resumed = checkpoints.resume(state_of(0))
    assert int(resumed.state.step) == (max(step for step in scores if step < 6) if left else 6)
    if not left:
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_checkpoints_that_cannot_begin_hand_the_signals_back(tmp_path):
    handlers = [signals.signal.getsignal(number) for number in signals.ENDING]
    (tmp_path / "file").touch()
    with pytest.raises(NotWritten, match="is a file"), Checkpoints(tmp_path / "file" / "x", 1):
        pass
    assert [signals.signal.getsignal(number) for number in signals.ENDING] == handlers
