"""The tables that benchmarks print and write, on small sizes."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import class_means, growth, memory, mining, scoring, steps
from benchmarks.lib import report, timing


def test_the_exponent_of_a_power_law_is_found():
    sizes = [1, 2, 4, 8, 16]
    seconds = [
        5.0,
        5.0,
        *(0.25 * n**1.75 for n in sizes[2:]),
    ]  # small sizes cost the same whatever they are
    np.testing.assert_allclose(growth.exponent(sizes, seconds), 1.75)


def test_functions_take_turns_and_medians_are_theirs(monkeypatch):
    clock, order = [0.0], []

    def call(name, seconds):
        taken = iter(seconds)

        def function():
            order.append(name)
            clock[0] += next(taken)
            return np.zeros(1)

        return function

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    a, b = [9.0, 8.0, 1.0, 7.0, 3.0, 8.0, 2.0], [9.0, 9.0, 5.0, 9.0, 6.0, 9.0, 7.0]
    took = timing.interleaved({"a": call("a", a), "b": call("b", b)}, rounds=3, calls=1)
    assert order == ["a", "b"] + ["a", "a", "b", "b"] * 3
    assert took == {"a": 2.0, "b": 6.0}  # the first call of a round is not counted


@pytest.mark.long
def test_what_grows_is_one_computation_in_three_forms():
    forms = growth.forms(16, 8)
    scores = forms["score_matrix"]()
    np.testing.assert_allclose(scores, forms["nested vmap"](), atol=1e-5)
    assert forms["mine_quadruplets_fused"]().shape == (16,)
    assert "nested vmap" not in growth.forms(16_384, 8)  # 8 GiB an array


def test_growth_leaves_its_table_and_its_picture(tmp_path, monkeypatch, capsys):
    def forms(b, d):
        return {name: lambda: np.ones((b, d)) @ np.ones((d, b)) for name in ("one", "other")}

    monkeypatch.setattr(growth, "forms", forms)
    monkeypatch.setattr(sys, "argv", ["growth", "--rounds", "1", "--out", str(tmp_path / "new")])
    growth.main()
    left = json.loads((tmp_path / "new" / "growth.json").read_text())
    assert {"cpu", "cores", "jax", "python"} <= set(left["machine"])
    assert len(left["rows"]) == 2 * (6 + 5)
    assert all(row["ms"] > 0 and np.isfinite(row["exponent"]) for row in left["rows"])
    with Image.open(tmp_path / "new" / "growth.png") as picture:
        assert picture.width > 800
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + len(left["rows"])
    assert printed[1].split() == list(left["rows"][0])


@pytest.mark.long
def test_scoring_prints_what_it_leaves(tmp_path, monkeypatch, capsys):
    arguments = ["--b", "24", "--d", "8", "--rounds", "1", "--calls", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["scoring", *arguments])
    scoring.main()
    left = json.loads((tmp_path / "scoring.json").read_text())
    assert (left["b"], left["d"], left["rows"][0]["times nested"]) == (24, 8, 1.0)
    printed = capsys.readouterr().out
    for row in left["rows"]:
        assert row["function"] in printed
        operations = 24 * 25 / 2 * 6 * 8 * 8
        np.testing.assert_allclose(row["GFLOP/s needed"], operations / row["ms"] / 1e6)


def test_mining_prints_what_it_leaves(tmp_path, monkeypatch, capsys):
    arguments = ["--b", "24", "--widths", "8", "--side", "32", "--rounds", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["mining", *arguments])
    mining.main()
    rows = json.loads((tmp_path / "mining.json").read_text())["rows"]
    assert [(row["dtype"], row["form"]) for row in rows] == [("float32", "plain"), ("bfloat16", "plain")]
    for row in rows:
        operations = 24 * 25 / 2 * 6 * 8 * 8
        np.testing.assert_allclose(row["TFLOP/s"], operations / row["ms"] / 1e9)
        np.testing.assert_allclose(row["of GEMM, %"], 100 * row["TFLOP/s"] / row["GEMM, TFLOP/s"])
        assert row["MB beside inputs"] > 0
    assert capsys.readouterr().out.count("plain") == 2


@pytest.mark.long
def test_a_step_is_the_configs_with_what_shall_differ(tmp_path, monkeypatch, capsys):
    said = "cars196:tuned,data.image_size=8,network.name=small_cnn,objective.name=contrastive"
    network = steps.config_of(f"{said},network.microbatches=2").network
    assert (network.microbatches, network.name, network.pretrained) == (2, "small_cnn", None)
    with pytest.raises(KeyError, match="partz"):
        steps.config_of(f"{said},network.partz=2")
    monkeypatch.setattr(
        sys, "argv", ["steps", said, "--side", "64", "--rounds", "1", "--out", str(tmp_path)]
    )
    steps.main()
    (row,) = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert (row["step"], row["images"], row["pixels"]) == (said, 64, 8)
    np.testing.assert_allclose(row["images/s"], 64e3 / row["ms"])
    assert row["TFLOP/s"] > 0
    assert said in capsys.readouterr().out


@pytest.mark.long
def test_memory_of_a_case_by_the_compiler():
    found = memory.measure(memory.Case("score_matrix", 512, 16))
    assert found["result, MiB"] == 1.0
    assert 0 < found["besides it, by the compiler"] < 64
    assert found["growth with the result"] >= 0


def test_memory_of_a_step_by_microbatches_and_with_recomputed_blocks(tmp_path, monkeypatch, capsys):
    def compiled(config, devices):
        images = config.data.classes_per_batch * config.data.images_per_class
        kept = images / config.network.microbatches / (2 if config.network.remat else 1)
        return {"temporary": kept * memory.MIB, "seconds": float(len(devices))}

    monkeypatch.setattr(memory, "compile_step", compiled)
    arguments = ["--network", "resnet50", "--batch", "64", "--parts", "1", "4", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["memory", *arguments])
    memory.main()
    rows = json.loads((tmp_path / "memory_of_steps.json").read_text())["rows"]
    assert [(row["microbatches"], row["remat"], row["besides it, MiB"]) for row in rows] == [
        (1, False, 64.0),
        (4, False, 16.0),
        (1, True, 32.0),
        (4, True, 8.0),
    ]
    assert capsys.readouterr().out.count("resnet50, 64 x 64 x 64 x 3") == 4


def test_class_means_prints_what_it_leaves(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(class_means, "BLOCK", 200)
    sizes = "--images", "500", "--d", "8", "--classes", "30", "--rounds", "1", "--folder", str(tmp_path)
    monkeypatch.setattr(sys, "argv", ["class_means", *sizes, "--out", str(tmp_path)])
    class_means.main()
    left = json.loads((tmp_path / "class_means.json").read_text())
    assert [row["read by"] for row in left["rows"]] == [
        "NumPy, new arrays",
        "NumPy, one array",
        "class_means",
    ]
    ours = left["rows"][2]
    np.testing.assert_allclose(ours["NumPy, one array / this"] * ours["s"], left["rows"][1]["s"])
    np.testing.assert_allclose(ours["GB/s"] * ours["s"] * 1e9, 500 * 8 * 4)
    assert left["relative_error"] < 1e-6
    assert left["peak_mib"] >= 0
    assert [path.name for path in tmp_path.iterdir()] == ["class_means.json"]
    assert "class_means" in capsys.readouterr().out


def test_the_memory_that_a_function_takes_is_seen():
    assert class_means.peak_of(lambda: np.ones(2**23).sum()) > 32  # of 64 MiB


def test_a_cell_is_short_and_whole():
    assert [report._cell(x) for x in (1234.5678, 0.00012, 12, "a")] == ["1235", "0.00012", "12", "a"]
