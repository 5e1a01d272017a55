"""Shards made by Apache Beam are those that processes make."""

import hashlib
import pickle
import sys

import pytest

from pddm_jax.data.prepare import beam
from pddm_jax.data.prepare.beam import in_beam
from tests.data.layouts.test_imagenet import command, lists, prepared, spoil, tar_of_tars, tars  # noqa: F401, lists is a fixture
from tests.helpers.builders import files_of


def test_without_beam_it_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(ValueError, match=r'pip install "pddm_jax\[beam\]"'):
        in_beam([], tmp_path, "DirectRunner", [])


def test_a_plan_that_was_changed_is_not_unpickled(tmp_path):
    proof = tmp_path / "proof"

    class Hostile:
        def __reduce__(self):
            return open, (str(proof), "w")

    (tmp_path / "plan").write_bytes(pickle.dumps(Hostile()))
    size = (tmp_path / "plan").stat().st_size
    with pytest.raises(ValueError, match="plan was changed since it was written"):
        beam._make((0, 0, size, hashlib.sha256(b"the task").hexdigest()), str(tmp_path / "plan"))
    assert not proof.exists()


RUNS = {
    "one": ("--runner=DirectRunner",),
    "processes": (
        *("--runner=DirectRunner", "--"),
        *("--direct_running_mode=multi_processing", "--direct_num_workers=2"),
    ),
    "prism": ("--runner=PrismRunner",),
}


@pytest.mark.parametrize("kind", ["one", "processes"])
def test_beam_makes_the_same_shards(kind, lists, tmp_path, python):  # noqa: F811
    pytest.importorskip("apache_beam")
    root, out = tmp_path / "data", tmp_path / "out"
    tar_of_tars(root)
    prepared(root, tmp_path / "whole", lists)
    whole = files_of(tmp_path / "whole")
    for _ in range(2):  # the second time most are there
        status, printed, errors = python("-m", *command(root, out, lists, *RUNS[kind]))
        assert status == 0, errors
        assert f"{out}: 18 images of imagenet; 0 skipped" in printed
        assert files_of(out) == whole
        (out / "images-00003-of-00005.array_record").write_bytes(b"")


def test_beam_stops_by_name_or_counts_what_it_skipped(lists, tmp_path, python):  # noqa: F811
    pytest.importorskip("apache_beam")
    root, out = tmp_path / "data", tmp_path / "out"
    tars(root)
    bad = [*spoil(root)]
    status, _, errors = python("-m", *command(root, out, lists, *RUNS["one"]))
    assert status == 2
    assert errors.splitlines()[-1].startswith(f"error: {root}/{bad[0]} is no image")
    assert not [*out.glob(".*")]
    status, printed, errors = python("-m", *command(root, out, lists, "--on_error=skip", *RUNS["one"]))
    assert status == 0, errors
    assert "".join(f"skipped {name}\n" for name in bad) in printed
    prepared(root, tmp_path / "whole", lists, skip=True)
    assert files_of(out) == files_of(tmp_path / "whole")
    status, _, errors = python("-m", *command(root, out, lists, "--runner=NoRunner"))
    assert status == 2
    assert "NoRunner" in errors.splitlines()[-1]
