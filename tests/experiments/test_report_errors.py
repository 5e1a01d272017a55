"""A report that cannot be written."""

import errno
import json

import pytest

from experiments import runner
from experiments.configs import fashion_mnist
from pddm_jax.system.files import NotWritten


@pytest.fixture
def config(fashion_root):
    config = fashion_mnist.get_config()
    config.data.update(root=str(fashion_root), classes_per_batch=2, images_per_class=4)
    config.network.update(embedding_dim=4, unit_dim=3)
    config.train.update(steps=1, eval_every=1)
    return config


@pytest.mark.long
def test_the_results_are_kept_whatever_the_report_raises(config, tmp_path, monkeypatch, capsys):
    def failing(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(runner, "write_run", failing)
    found = runner.run(config, tmp_path / "run", "fashion_mnist")
    warning = "warning: report.html could not be written: two lines; the results are complete"
    assert warning in capsys.readouterr().err.splitlines()
    stored = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert stored["params_sha256"] == found["params_sha256"]
    assert not (tmp_path / "run" / "report.html").exists()


@pytest.mark.long
def test_a_full_disk_ends_the_run_without_results(config, tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise NotWritten(errno.ENOSPC, f"{path}: no space left")

    monkeypatch.setattr(runner, "write_run", full)
    with pytest.raises(NotWritten):
        runner.run(config, tmp_path / "run", "fashion_mnist")
    assert not (tmp_path / "run" / "results.json").exists()
    monkeypatch.undo()
    runner.run(config, tmp_path / "run", "fashion_mnist")
    assert (tmp_path / "run" / "report.html").exists()
