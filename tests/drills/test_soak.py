"""The short form of the soak, and the soak's own judgement."""

import os
import signal

import pytest

from tests.drills.processes import Held, held, tree
from tests.drills.soak import Sample, Soak, judged, slope, soak


def samples(grows=0, descriptors=0, compilations=0):
    """Ten minutes of a command that holds more with every evaluation, two a second."""
    return [
        Sample(
            float(second),
            Held(10**8 + 2 * second * grows, 10 + second * descriptors // 10, 30, 1),
            0,
            0,
            2 * second,
            14 + second * compilations // 100,
        )
        for second in range(600)
    ]


def bad(found):
    return [name for name, (_, good) in judged(found, 600).items() if not good]


def test_what_grows_is_told():
    end = 0, "ended by SIGTERM: all is saved", []
    assert bad(Soak(samples(), ["a", "b"], *end)) == []
    assert bad(Soak(samples(grows=100), ["a", "b"], *end)) == []  # rows are kept
    assert bad(Soak(samples(grows=10_000), ["a", "b"], *end)) == ["memory"]
    assert bad(Soak(samples(descriptors=1), ["a", "b"], *end)) == ["open file descriptors"]
    assert bad(Soak(samples(compilations=1), ["a", "b"], *end)) == ["compilations"]
    assert bad(Soak(samples(), ["a", "a"], *end)) == ["compilations"]
    assert bad(Soak(samples(), ["a"], 0, "a warning", ["/dev/shm/x"])) == ["end by SIGTERM"]
    assert slope(samples(grows=1000))[0] == pytest.approx(1000)


def test_what_a_process_holds(start_python):
    process = start_python("-c", "import subprocess; subprocess.run(['sleep', '100'])")
    while len(found := tree(process.pid)) < 2:
        assert process.poll() is None
    assert found[0] == process.pid
    of = held(process.pid)
    assert of.processes == 2
    assert of.rss > 2**20
    assert of.descriptors >= 6
    for pid in reversed(found):
        if pid != process.pid:
            os.kill(pid, signal.SIGKILL)
    process.kill()


@pytest.mark.long
def test_a_short_soak(tmp_path):
    found = soak(tmp_path, 15)
    verdicts = judged(found, 15)
    for name in ("processes", "temporary files", "files in /dev/shm", "compilations", "end by SIGTERM"):
        text, good = verdicts[name]
        assert good, (name, text)
