"""A finished run whose PDDM ranking differs from the config's is evaluated again; old results are kept."""

import json
import shutil

import pytest

from experiments import compare, runner
from experiments.configs import fashion_mnist
from pddm_jax.system.files import write_sealed
from pddm_jax.training.resume import update_config


@pytest.fixture(scope="module")
def config(fashion_root):
    config = fashion_mnist.get_config()
    config.data.update(root=str(fashion_root), image_size=8, images_per_class=4)
    config.network.update(embedding_dim=8, unit_dim=4)
    config.train.update(steps=2, eval_every=2, checkpoint_every=2, log_every=1, pddm_rerank_depth=30)
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A workdir of `compare` with one finished run."""
    workdir = tmp_path_factory.mktemp("ranking") / "runs"
    runner.run(config, workdir / "pddm-0", "test")
    return workdir


@pytest.fixture
def workdir(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "runs")


def with_depth(config, depth):
    config = config.copy_and_resolve_references()
    config.train.pddm_rerank_depth = depth
    return config


def results(folder):
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def make_old(folder):
    """Results as earlier versions wrote them."""
    found = results(folder)
    del found["sha256"], found["protocol"]["pddm_ranking"]
    write_sealed(folder / "results.json", found)
    return results(folder)


@pytest.mark.long
def test_another_depth_evaluates_a_finished_run_again(config, workdir):
    folder = workdir / "pddm-0"
    before, rows = results(folder), (folder / "metrics.jsonl").read_bytes()
    assert before["protocol"]["pddm_ranking"].startswith("the 30 nearest")
    again = runner.run(with_depth(config, 0), folder, "test")
    assert again["protocol"]["pddm_ranking"] == "all"
    assert results(folder)["protocol"]["pddm_ranking"] == "all"
    assert again["params_sha256"] == before["params_sha256"]
    assert again["recall_at_k"]["euclidean"] == before["recall_at_k"]["euclidean"]
    assert (folder / "metrics.jsonl").read_bytes() == rows
    assert not [*folder.glob("results-*.json")]
    shown = (folder / "results.json").stat().st_mtime_ns
    runner.run(with_depth(config, 0), folder, "test")
    assert (folder / "results.json").stat().st_mtime_ns == shown


@pytest.mark.long
@pytest.mark.parametrize("depth", [0, 30])
def test_results_of_earlier_versions_are_shown_as_they_are(depth, config, workdir):
    old = make_old(workdir / "pddm-0")
    assert runner.run(with_depth(config, depth), workdir / "pddm-0", "test") == {
        name: x for name, x in old.items() if name != "sha256"
    }
    table = runner.EVALUATIONS["retrieval"].table(old)
    assert table.endswith("delete results.json and repeat the command")


@pytest.mark.long
def test_without_a_checkpoint_no_step_is_made(config, workdir):
    folder = workdir / "pddm-0"
    shutil.rmtree(folder / "checkpoints")
    runner.run(config, folder, "test")
    with pytest.raises(ValueError, match=r"pddm_ranking .*\(here 'all'\), but no checkpoint of step 2"):
        runner.run(with_depth(config, 0), folder, "test")


@pytest.mark.long
def test_results_of_fewer_steps_are_kept_by_their_number(config, workdir):
    folder = workdir / "pddm-0"
    theirs = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    update_config(folder, theirs, theirs["train"])
    assert (folder / "results.json").exists()
    update_config(folder, theirs, theirs["train"] | {"steps": 3})
    assert (folder / "results-2.json").exists()
    assert not (folder / "results.json").exists()


@pytest.mark.long
def test_compare_names_its_ranking_and_refuses_two(config, workdir):
    table = compare.compare(with_depth(config, 20), workdir, ["pddm"], [0])
    assert " PDDM score ranks: the 20 nearest images of each query ordered by score, then" in table
    make_old(workdir / "pddm-0")
    table = compare.compare(with_depth(config, 20), workdir, ["pddm"], [0])
    assert table.endswith(" PDDM score ranks: all.\n")
    with pytest.raises(ValueError, match=r"in different ways: all in pddm-0; the 20 .* in pddm-1; give"):
        compare.compare(with_depth(config, 20), workdir, ["pddm"], [0, 1])
    assert not (workdir / "pddm-1").exists()
