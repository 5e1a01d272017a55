"""The examples of docs/python.md run as they are printed."""

import re

import jax
import numpy as np
import pytest

from tests.conftest import ROOT


@pytest.mark.long
def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 5
    names = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert names["scores"].shape == (96, 96)
    assert names["index"].shape == (4, 3)
    np.testing.assert_allclose(np.linalg.norm(names["embeddings"], axis=1), 1, rtol=1e-5)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["mine", "nnx", "own"]
    assert not jax.config.jax_enable_x64


def test_the_first_example_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = next(re.finditer(r"```python\n(import pddm_jax\n.*?)```", text, re.DOTALL))[1]
    assert "steps=500" in block
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 5)
    images = rng.integers(0, 256, (20, 12, 12), np.uint8)
    names = {"images": images, "labels": labels}
    exec(compile(block.replace("steps=500", "steps=3"), "README.md", "exec"), names)
    assert names["e"].shape == (20, 64)
