"""Zero-shot evaluations of runs: unseen characters by their names, and photos by word vectors."""

import json
import math
from functools import partial

import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from PIL import Image

from experiments.configs.zero_shot import get_config
from experiments.evaluations import zero_shot as evaluation
from experiments.evaluations.base import EvaluationContext
from experiments.runner import run
from pddm_jax import embed
from pddm_jax.data import glyphs, load_data, per_class_mask, subset
from pddm_jax.data.images import of_classes
from pddm_jax.data.load import find
from pddm_jax.data.prepare.command import prepare
from pddm_jax.transfer import zero_shot_metrics
from pddm_jax.transfer.descriptions import word_descriptions


def assert_hits(hits):
    assert [*hits] == [str(k) for k in zero_shot_metrics.KS]
    assert [*hits.values()] == sorted(hits.values())


def test_characters_never_seen_are_known_by_their_names(glyph_root, tmp_path):
    """Already by their pixels: every fifth character, seen and unseen, without a network."""
    config = get_config()
    config.zero_shot.ranking_steps = 40
    config = FrozenConfigDict(config)
    whole = glyphs.load(str(glyph_root), None, 0)
    few = [of_classes(part, np.unique(part.labels)[::5]) for part in (whole.train, whole.test)]
    split = whole._replace(train=few[0], test=few[1])
    apart = per_class_mask(split.train, config.data.seen_test, 0)
    train, seen = (subset(split.train, np.flatnonzero(chosen)) for chosen in (~apart, apart))

    def pixels(data):
        coarse = data.images.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(-1, 64)
        return coarse / np.linalg.norm(coarse, axis=1, keepdims=True)

    beside = evaluation.prepare(config, split)
    embed = pixels, partial(pixels, split.test)
    learned = EvaluationContext(config, tmp_path, split, train, seen, None, *embed, beside)
    rule, found, _ = evaluation.measure(learned)
    assert rule["zero_shot"]["classes"] == {"seen": len(split.train.class_names), "unseen": 284}
    hits = found["hit_at_k"]
    assert [*hits] == ["chance", "word frequency", "conse", "ranking", "ridge"]
    assert hits["chance"] == {str(k): k / 284 for k in zero_shot_metrics.KS}
    for name in ("conse", "ranking", "ridge"):
        assert_hits(hits[name])
        for k in ("1", "5"):
            assert hits[name][k] > 4 * max(hits["chance"][k], hits["word frequency"][k]), (name, k)
        of = found["generalised"][name]
        for part in ("seen", "unseen", "harmonic mean"):
            assert_hits(of[part])
        for k, share in of["seen"].items():
            unseen = of["unseen"][k]
            assert unseen < share
            assert of["harmonic mean"][k] == pytest.approx(2 * share * unseen / (share + unseen))
    with Image.open(tmp_path / "zero_shot.png") as picture:
        assert len(picture.convert("RGB").getcolors(2**20)) > 100
    described = {"data": "glyphs", "seed": 0, "objective": {"name": "pddm"}, "images": {"test": 1}}
    results = {"experiment": "x", "protocol": described | rule, "steps": 1, "seconds": 1, **found}
    line = next(line for line in evaluation.table(results).splitlines() if line.split()[:1] == ["conse"])
    assert line.split()[1:] == [f"{100 * share:.2f}" for share in hits["conse"].values()]


def test_the_ordering_by_word_frequency_is_that_of_the_counts():
    seen, unseen = ["A B", "A C", "A"], ["C", "B C D", "A", "E", "A B"]
    vectors = word_descriptions([*seen, *unseen])
    places = evaluation.by_frequency(vectors[:3], vectors[3:])
    means = [1, 2 / 3, 3, 0, 2]  # seen classes with each word of the name
    assert places.tolist() == [sorted(means, reverse=True).index(mean) for mean in means]


@pytest.fixture
def photos(tmp_path):
    """A folder of ten classes of five images, a file that describes them, one that names three of them."""
    rng = np.random.default_rng(0)
    for label in range(10):
        (tmp_path / "photos" / f"n{label}").mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / f"n{label}" / f"{number}.png")
    vectors = rng.normal(size=(10, 4)).tolist()
    lines = [f"n{label} {' '.join(map(str, vector))}\n" for label, vector in enumerate(vectors)]
    (tmp_path / "words.txt").write_text("".join(lines), encoding="utf-8")
    (tmp_path / "unseen.txt").write_text("n7\nn2\n\nn4\n")
    return tmp_path


def fields(photos):
    """Of a short run on the photos."""
    return {
        "data.name": "folder",
        "data.root": str(photos / "photos"),
        "data.test_classes": str(photos / "unseen.txt"),
        "data.image_size": 16,
        "data.seen_test": 0.2,
        "data.workers": 0,
        "data.classes_per_batch": 4,
        "network.name": "small_cnn",
        "network.embedding_dim": 8,
        "network.unit_dim": 8,
        "train.steps": 2,
        "zero_shot.descriptions": str(photos / "words.txt"),
    }


@pytest.mark.long
def test_compare_sets_objectives_side_by_side_by_the_naming_of_unseen_classes(run_command, photos):
    given = [f"--config.{name}={value}" for name, value in fields(photos).items()]
    status, out, err = run_command(
        *("experiments.compare", "--config=experiments/configs/zero_shot.py:ilsvrc2010"),
        *("--evaluation=zero_shot", "--objectives=pddm,triplet", "--seeds=3"),
        *(f"--workdir={photos / 'run'}", *given),
    )
    assert status == 0, err
    summary = json.loads((photos / "run" / "compare.json").read_text(encoding="utf-8"))
    for name in ("pddm", "triplet"):
        results = (photos / "run" / f"{name}-3" / "results.json").read_text(encoding="utf-8")
        run = json.loads(results)
        assert run["evaluation"] == "zero_shot"
        assert [*run["hit_at_k"]] == ["chance", "conse", "ranking", "ridge"]
        assert run["hit_at_k"]["conse"]["5"] == 1.0  # of three classes
        assert run["protocol"]["images"] == {"train": 28, "test": 15, "seen_test": 7}
        assert "3 of 10 classes for test" in run["protocol"]["split"]
        assert summary["objectives"][name]["ridge Hit@1"] == [run["hit_at_k"]["ridge"]["1"]]
        mean = run["generalised"]["ridge"]["harmonic mean"]["1"]
        assert summary["objectives"][name]["ridge harmonic mean"] == [mean]
        assert "published: Hit@5 48.2" in evaluation.table(run)
    assert out.startswith("| objective | conse Hit@1 | conse Hit@5 |")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"zero_shot.descriptions": "/nowhere.txt"}, "/nowhere.txt"),
        ({"zero_shot.ids": "ids.txt"}, r"zero_shot\.ids.*ids\.txt"),
        ({"zero_shot.ridge_weight": math.nan}, r"zero_shot\.ridge_weight .* nan"),
        ({"data.test_classes": "0"}, r"data\.test_classes=0 selects 0 of 10"),
        ({"data.seen_test": 0.1}, r"data\.seen_test of 0\.1 selects no image"),
        ({"data.seen_test": 1.0}, r"data\.seen_test must be .* below 1, got 1\.0"),
        ({"data.test_classes": None, "data.name": "imagenet2010"}, r"data\.name .* 'imagenet2010'"),
    ],
)
def test_what_is_wrong_is_told_before_training(changed, words, photos):
    config = get_config("ilsvrc2010")
    config.update_from_flattened_dict(fields(photos) | changed)
    with pytest.raises((ValueError, OSError), match=words):
        run(config, photos / "run", "zero_shot")
    assert not (photos / "run" / "config.json").exists()


def test_prepared_imagenet_is_split_by_class_for_a_run_and_for_its_embeddings(photos, tmp_path):
    wnids = [f"n{label:08d}" for label in range(10)]
    (tmp_path / "wnids.txt").write_text("\n".join(wnids))
    for label, wnid in enumerate(wnids):
        (photos / "photos" / f"n{label}").rename(photos / "photos" / wnid)
    source = find("imagenet2010", photos / "photos", str(tmp_path / "wnids.txt"))
    prepare("imagenet2010", source, photos / "photos", tmp_path / "records", 16, False)
    config = get_config("ilsvrc2010")
    config.data.update(root=str(tmp_path / "records"), test_classes="3")
    split = load_data(config.data.to_dict(), closed_set=False, seed=config.seed)
    assert [len(part.class_names) for part in (split.train, split.test)] == [7, 3]
    assert not split.train.class_names.keys() & split.test.class_names.keys()
    again = embed.load_data(config.to_dict(), None, None)
    assert again.test.class_names == split.test.class_names
    with pytest.raises(ValueError, match=r"data\.test_classes do not apply to imagenet2010"):
        load_data(config.data.to_dict(), closed_set=True, seed=config.seed)
