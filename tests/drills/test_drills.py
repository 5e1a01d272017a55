"""The short form of the drill: a handful of faults of each kind; and the drill's own judgement."""

import pytest

from tests.drills import disks
from tests.drills.__main__ import of_records, play
from tests.drills.launcher import Ended, launcher
from tests.drills.moments import After, Appears
from tests.drills.stage import set_up
from tests.drills.targets import EMBED, PREPARE, RUN
from tests.drills.trials import Damaged, Full, Read, ReadOnly, Struck
from tests.drills.verdicts import BAD, odd, refusal


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drill")
    with launcher(folder) as started:
        stage = set_up(started, folder, (RUN, PREPARE, EMBED))
        stage.expected["records"] = of_records(stage)
        yield stage


STRUCK = [
    Struck("run", "SIGKILL", After(0.3)),
    Struck("run", "SIGKILL", Appears("run/checkpoints/*12*tmp*")),
    Struck("run", "SIGKILL", Appears("run/gallery.png")),
    Struck("run", "SIGHUP", Appears("run/metrics.jsonl", 0.1)),
    Struck("run", "SIGINT", Appears("run/checkpoints/6"), 2),
    Struck("prepare", "SIGKILL", Appears("prepare/images-00002*")),
    Struck("prepare", "SIGTERM", After(0.5)),
    Struck("embed", "SIGKILL", Appears(".embed.part/about.json")),
]
FULL = [
    Full("run", 8),
    Full("run", moment=Appears("run/checkpoints/6")),
    Full("prepare", 16),
    Full("embed", 8),
    ReadOnly("run", "stopped"),
    ReadOnly("run", "finished"),
]
DAMAGED = [
    Damaged("run", "finished", "results.json", "flip"),
    Damaged("run", "finished", "config.json", "truncate"),
    Damaged("run", "stopped", "metrics.jsonl", "folder"),
    Damaged("run", "stopped", "checkpoints/24/record/metadata", "empty"),
    Damaged("prepare", "finished", "pddm_records.json", "flip"),
    Damaged("embed", "finished", "embeddings.npy", "flip"),
    Damaged("embed", "finished", "labels.npy", "remove"),
    Read("run", "config.json", "flip"),
    Read("prepare", "pddm_records.json", "flip"),
    Read("prepare", "images-00001-of-00006.array_record", "flip"),
]


@pytest.mark.long
@pytest.mark.parametrize("trial", [*STRUCK, *DAMAGED], ids=str)
def test_after_a_fault_a_command_ends_as_if_nothing_was_or_says_why(trial, stage):
    verdict = play(trial, stage, 0)
    assert verdict.result != BAD, verdict.seen


@pytest.mark.long
@pytest.mark.parametrize("trial", FULL, ids=str)
def test_after_a_full_disk_likewise(trial, stage, tmp_path):
    if not disks.can_mount(tmp_path):
        pytest.skip("no file system can be mounted here")
    verdict = play(trial, stage, 0)
    assert verdict.result != BAD, verdict.seen


def test_what_counts_as_a_refusal():
    def ended(status, err):
        return Ended(status, "", err, 1.0)

    assert not refusal(ended(2, "step 1\nerror: run/config.json is damaged\n"), "config.json")
    assert "does not name" in refusal(ended(2, "error: something\n"), "config.json")
    assert "not one line" in refusal(ended(2, "error: a\nerror: b\n"))
    assert "not one line" in refusal(ended(2, "error: a\nmore\n"))
    assert "unforeseen" in refusal(ended(1, "error: KeyError (unexpected error, probably a bug ...)\n"))
    assert "status 0" in refusal(ended(0, "error: a\n"))
    assert odd(ended(None, "")).startswith("hung")
    assert "Traceback" in odd(ended(1, "Traceback (most recent call last):\n"))
    assert not odd(ended(0, "step 1\n"))


def test_a_moment_passes_with_the_command(tmp_path):
    class Over:
        def poll(self, timeout=0):
            return 0

    Appears("never").wait(Over(), tmp_path, 1.0)
    After(0.5).wait(Over(), tmp_path, 1.0)


def test_a_full_disk_is_full(tmp_path):
    with disks.disk(tmp_path, "64k") as there:
        if not there:
            pytest.skip("no file system can be mounted here")
        filler = disks.fill(tmp_path)
        with pytest.raises(OSError, match="No space left"):
            (tmp_path / "more").write_bytes(bytes(1))
        assert 0 < filler.stat().st_size <= 2**16
    assert not [*tmp_path.iterdir()]
