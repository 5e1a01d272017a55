"""Classification by transfer, run whole on small glyphs, and what it says computed once more."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from experiments.configs import imagenet10k, imagenet2010, transfers
from experiments.evaluations import transfer
from pddm_jax.config.check import accepted, check_config
from pddm_jax.data import ClosedSet, Images, Split, load_closed_set, ordered_batches
from pddm_jax.data.images import subset
from pddm_jax.data.streams import WAYS, stream
from pddm_jax.sharding import data_mesh
from pddm_jax.training.recipe import make_recipe
from pddm_jax.training.restore import restore_trained, transform_of
from pddm_jax.training.run_files import read_config
from pddm_jax.training.step import make_embed

GLYPHS = "--config=experiments/configs/imagenet2010.py:glyphs"
SMALL = {
    "data.image_size": 8,
    "data.classes_per_batch": 6,
    "network.embedding_dim": 16,
    "network.unit_dim": 8,
    "train.steps": 3,
    "train.log_every": 1,
    "transfer.ways": "(7, 60)",
    "transfer.neighbours": "(3,)",
    "transfer.probe_steps": 5,
}


def given(glyph_root, **more):
    fields = SMALL | {"data.root": glyph_root} | more
    return [GLYPHS, *(f"--config.{name}={value}" for name, value in fields.items())]


@pytest.fixture(scope="module")
def run(run_command, glyph_root, once):
    """The workdir of a run, and what it printed."""

    def run(folder):
        workdir = f"--workdir={folder / 'run'}"
        status, out, err = run_command("experiments.imagenet2010", workdir, *given(glyph_root))
        assert status == 0, err
        (folder / "said").write_text(out, encoding="utf-8")

    folder = once("transfer", run)
    return folder / "run", (folder / "said").read_text(encoding="utf-8")


def results(workdir):
    return json.loads((workdir / "results.json").read_text(encoding="utf-8"))


@pytest.mark.long
def test_what_is_reported_is_what_scikit_learn_finds(run, glyph_root):
    workdir, found = run[0], results(run[0])
    closed, config = load_closed_set("glyphs", str(glyph_root), 8, 0), read_config(workdir)
    mesh, transform = data_mesh(), transform_of(config["data"])
    network, state = restore_trained(workdir, config, (8, 8, 1), mesh)
    embed = make_embed(network, mesh)
    drawn = stream(0, WAYS).permutation(np.unique(closed.train.labels))

    def embedded(of, ways):
        few = subset(of, np.flatnonzero(np.isin(of.labels, drawn[:ways])))
        x = embed(state, ordered_batches(few.images, transform, 128))[: len(few.labels)]
        return x.astype(np.float64), few.labels

    for ways in (7, 60):
        fit, (x, y) = (embedded(of, ways) for of in closed[:2])
        told = found["accuracy"][str(ways)]
        centroids = NearestCentroid().fit(*fit)
        right = centroids.predict(x) == y
        assert told["means"]["flat"]["1"] == pytest.approx(right.mean(), abs=1e-9)
        of_classes = [right[y == c].mean() for c in np.unique(y)]
        assert told["means"]["per_class"]["mean"] == pytest.approx(np.mean(of_classes))
        assert told["means"]["per_class"]["quartiles"][2] == pytest.approx(np.median(of_classes))
        distances = ((x[:, None] - centroids.centroids_) ** 2).sum(-1)
        five = centroids.classes_[np.argsort(distances, axis=1)[:, :5]]
        assert told["means"]["flat"]["5"] == pytest.approx((five == y[:, None]).any(1).mean(), abs=1e-9)
        votes = KNeighborsClassifier(3, algorithm="brute").fit(*fit).predict(x)
        assert told["3 neighbours"]["flat"]["1"] == pytest.approx((votes == y).mean(), abs=0.01)  # ties
        for name in ("means, PDDM score", "linear probe"):
            assert 0 < told[name]["flat"]["1"] <= told[name]["flat"]["5"] <= 1
        assert told["means"]["hierarchical"] is None
    assert [*found["accuracy"]] == ["7", "60"]


@pytest.mark.long
def test_the_results_carry_their_protocol(run):
    found = results(run[0])
    protocol = found["protocol"]
    assert found["evaluation"] == "transfer"
    assert protocol["classified"] == "glyphs"
    assert "half of the images of each class by seed 0" in protocol["closed_set"]
    assert protocol["known_images"] >= protocol["classified_images"] > 7000
    assert protocol["transfer"]["ways"] == [7, 60]
    lines = run[1].splitlines()
    assert "top-1 of 7" in lines[1]
    for name, of in found["accuracy"]["60"].items():
        line = next(line for line in lines if line.strip().startswith(f"{name}  "))
        assert f"{100 * of['flat']['1']:.1f}" in line.split()


@pytest.mark.long
def test_objectives_are_compared_by_transfer(run, run_command, glyph_root, tmp_path):
    shutil.copytree(run[0], tmp_path / "pddm-0")  # a finished run is not run again
    objectives = "--evaluation=transfer", "--objectives=pddm,contrastive", "--seeds=0"
    workdir = f"--workdir={tmp_path}"
    status, out, err = run_command("experiments.compare", workdir, *given(glyph_root), *objectives)
    assert status == 0, err
    summary = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))["objectives"]
    for name in ("pddm", "contrastive"):
        found = results(tmp_path / f"{name}-0")["accuracy"]
        assert summary[name]["top-1 of 60"] == [found["60"]["means"]["flat"]["1"]]
        assert summary[name]["top-1 of 7"] == [found["7"]["means"]["flat"]["1"]]
        assert summary[name]["top-1, 3 neighbours"] == [found["60"]["3 neighbours"]["flat"]["1"]]
    assert summary["contrastive"]["top-1, PDDM score"] is None
    assert summary["pddm"]["top-1, PDDM score"] is not None
    assert "| objective | top-1 of 60 | top-1 of 7 | top-5 of 60 |" in out


def test_accuracies_know_the_hierarchy_of_the_classes(tmp_path):
    """Of classes whose labels are neither in the order of their names nor without gaps."""
    (tmp_path / "is_a").write_text("top dog\ntop hammer\ndog poodle\ndog terrier\n", encoding="utf-8")
    names = {9: "hammer", 4: "terrier", 7: "poodle"}
    known = Images(np.zeros((3, 1, 1, 1), np.uint8), np.array([9, 4, 7]), names)
    meeting = transfer._hierarchy(tmp_path / "is_a", known)
    ranked, labels = np.array([[7, 4], [4, 7], [9, 4]]), np.array([7, 7, 4])
    found = transfer._accuracies(ranked, labels, meeting)
    assert found["hierarchical"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found["flat"] == {"1": pytest.approx(1 / 3)}
    assert found["per_class"]["mean"] == pytest.approx((1 / 2 + 0) / 2)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("ways", (5, 0), r"transfer\.ways.*0"),
        ("neighbours", (-1,), r"transfer\.neighbours.*-1"),
        ("probe_decay", 0.0, r"transfer\.probe_decay.*0\.0"),
        ("probe_steps", -1, r"transfer\.probe_steps.*-1"),
        ("root", "/nowhere", r"transfer\.root.*/nowhere"),
        ("hierarchy", "/nowhere", r"transfer\.hierarchy.*/nowhere"),
        ("name", "nothing", r"transfer\.name.*'glyphs'.*'nothing'"),
    ],
)
def test_slips_are_told_before_training(field, value, words):
    config = imagenet2010.get_config("glyphs")
    accepted(config)
    closed = ClosedSet(None, None, "")
    assert transfer.prepare(config, closed) == (closed, None)
    config.transfer[field] = value
    with pytest.raises((ValueError, OSError), match=words):
        accepted(config)


@pytest.mark.parametrize(
    ("lines", "words"),
    [("a poodle\nb a\na b\n", "cycle"), ("a poodle\nb\n", "line 2"), ("a b\n", "lacks 1 of 1 .*poodle")],
)
def test_a_wrong_hierarchy_is_told_before_training(lines, words, tmp_path):
    (tmp_path / "is_a").write_text(lines, encoding="utf-8")
    config = imagenet2010.get_config("glyphs")
    config.transfer.hierarchy = str(tmp_path / "is_a")
    known = Images(np.zeros((1, 1, 1, 1), np.uint8), np.array([4]), {4: "poodle"})
    with pytest.raises(ValueError, match=words):
        transfer.prepare(config, ClosedSet(known, known, ""))


def test_another_closed_set_is_read_before_training(tmp_path):
    config = imagenet2010.get_config("glyphs")
    config.transfer.update(name="folder", root=str(tmp_path))
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        transfer.prepare(config, ClosedSet(None, None, ""))


def test_what_is_trained_on_must_be_a_closed_set_where_no_other_is_named():
    config = imagenet2010.get_config("glyphs")
    config.data.name = "cars196"
    with pytest.raises(ValueError, match=r"data\.name.*'glyphs'.*'cars196'"):
        transfer.prepare(config, Split(None, None, ""))
    transfer.prepare(config, ClosedSet(None, None, ""))


def test_imagenet_asks_for_its_folder(run_command, tmp_path):
    status, _, err = run_command("experiments.imagenet10k", f"--workdir={tmp_path}")
    assert status == 2
    assert err.splitlines()[-1].startswith("error: data.root must be given for imagenet2010")


@pytest.mark.parametrize("variant", transfers.IMAGENET)
@pytest.mark.parametrize("module", [imagenet2010, imagenet10k])
def test_the_variants_are_recipes_and_are_told_in_the_file(variant, module):
    config = FrozenConfigDict(module.get_config(variant))
    check_config(config)
    assert make_recipe(config).network.dtype == ("float32" if variant == "imagenet" else "bfloat16")
    if variant == "pod":  # whose chips each have a share of the batch
        assert config.data.classes_per_batch * config.data.images_per_class == 8192
    assert variant == "imagenet" or f"`{variant}`" in module.__doc__


def test_the_configs_say_what_is_the_papers():
    configs = Path(__file__).parents[2] / "experiments" / "configs"
    for name, figure in (("imagenet2010", "top-5 48.2"), ("imagenet10k", "flat top-1 28.4")):
        text = (configs / f"{name}.py").read_text(encoding="utf-8")
        assert f"The paper reports {figure}." in text
        assert "not been run" in " ".join(text.split())
