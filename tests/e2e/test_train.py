"""`pddm_jax.train` with networks, optimizers, objectives and images of all kinds; and what it refuses."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

import pddm_jax
from pddm_jax.embed import embed
from pddm_jax.networks import EmbeddingNetwork, embedding_network
from pddm_jax.system.lock import Lock
from tests.helpers.small_runs import (
    CLASSES,
    FIELDS,
    LABELS,
    Flat,
    assert_equal_bits,
    leaves,
    noisy,
    write_pngs,
)


def train(workdir, images=None, labels=LABELS, **more):
    given = {"network": Flat(), "steps": 2} | more
    if "config" not in given:
        own = {"optimizer": "optimizer" in more, "network": isinstance(given["network"], EmbeddingNetwork)}
        keep = {name: x for name, x in FIELDS.items() if not own.get(name.partition(".")[0])}
        given["config"] = keep | {"network.unit_dim": 3}
    return pddm_jax.train(noisy(1) if images is None else images, labels, workdir=workdir, **given)


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def changed(run, other, part):
    """Whether any array of a part of the parameters differs between two runs."""
    ours, theirs = (jax.tree.leaves(x.state.params[part]) for x in (run, other))
    return any(not np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two steps by all defaults of this file."""
    return train(tmp_path_factory.mktemp("plain"))


# --------------------------------------------------------------------------- networks of one's own


class Normed(nn.Module):
    """A backbone with statistics of a batch."""

    @nn.compact
    def __call__(self, images, train=False):
        assert images.dtype == jnp.float32
        x = nn.Conv(4, (3, 3), (2, 2), use_bias=False)(images)
        return nn.relu(nn.BatchNorm(use_running_average=not train)(x)).mean((1, 2))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(80, 5, rngs=rngs)

    def __call__(self, images):
        return self.layer(images.reshape(len(images), -1))


class Bridged(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nnx.bridge.ToLinen(NNX)(images)


@pytest.mark.long
@pytest.mark.parametrize("network", [Normed(), Bridged()], ids=["BatchNorm", "NNX"])
def test_a_module_of_ones_own_is_trained_and_loaded(network, tmp_path):
    run = train(tmp_path / "run", network=network)
    loaded = pddm_jax.load(tmp_path / "run", network=network)
    assert_equal_bits(loaded, run)
    np.testing.assert_array_equal(loaded.embed(noisy(1)), run.embed(noisy(1)))
    backbone = run.state.params["network"]["backbone"]
    assert jax.tree.leaves(backbone)
    if isinstance(network, Normed):
        mean = run.state.batch_stats["backbone"]["BatchNorm_0"]["mean"]
        assert mean.shape == (4,)
        assert np.abs(mean).min() > 0
    assert_equal_bits(train(tmp_path / "again", network=network), run)


@pytest.mark.long
def test_the_backbone_gets_images_of_0_to_1(tmp_path):
    class Brightness(nn.Module):
        @nn.compact
        def __call__(self, images):
            bias = self.param("bias", nn.initializers.zeros, (1,))
            return jnp.stack([images.max((1, 2, 3)), images.min((1, 2, 3)) + 2], axis=-1) + bias

    fields = FIELDS | {"network.embedding_dim": 0, "optimizer.learning_rate": 1e-9}
    run = train(tmp_path, network=Brightness(), config=fields)
    images = np.array([[[0, 255]], [[51, 102]]], np.uint8).repeat(8, 1).repeat(5, 2)
    features = np.array([[1, 2], [0.4, 2.2]])
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(run.embed(images), expected, atol=1e-5)


@pytest.mark.long
def test_the_width_of_the_embedding_is_a_field(tmp_path):
    run = train(tmp_path, config=FIELDS | {"network.embedding_dim": 0})
    assert run.embed(noisy(1)).shape == (24, 6)


# ---------------------------------------------------------------------- optimizers of one's own


@pytest.mark.long
def test_an_optimizer_of_ones_own_moves_the_parameters(plain, tmp_path):
    still = train(tmp_path / "still", optimizer=optax.set_to_zero())
    moved = train(tmp_path / "moved", optimizer=optax.sgd(optax.exponential_decay(0.1, 2, 0.5)))
    for part in ("network", "unit"):
        assert changed(moved, still, part)
        assert changed(plain, still, part)
    assert_equal_bits(pddm_jax.load(tmp_path / "moved", Flat()), moved)
    again = train(tmp_path / "longer", optimizer=optax.sgd(0.1), steps=1)
    assert_equal_bits(
        train(tmp_path / "longer", optimizer=optax.sgd(0.1), steps=3),
        train(tmp_path / "whole", optimizer=optax.sgd(0.1), steps=3),
    )
    assert again.step == 1


# ----------------------------------------------------------------------- objectives of one's own


def embeddings_alone(params, embeddings, labels):
    loss = pddm_jax.multi_similarity_loss(embeddings, labels)
    return loss, {"mean_norm": jnp.linalg.norm(embeddings, axis=-1).mean()}


def by_unit(params, embeddings, labels):
    scores = pddm_jax.score_matrix(params["unit"], embeddings)
    same = labels[:, None] == labels
    return jnp.mean(jnp.where(same, -scores, scores)), {"mean_score": scores.mean()}


@pytest.mark.long
def test_an_objective_of_ones_own_is_logged(tmp_path):
    fields = FIELDS | {"train.log_every": 1}
    run = train(tmp_path, objective=embeddings_alone, config=fields)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [1, 2]
    for row in found:
        assert row["mean_norm"] == pytest.approx(1, abs=1e-5)
        assert row["loss"] > 0
    assert_equal_bits(pddm_jax.load(tmp_path, Flat()), run)
    by_name = train(tmp_path.with_name("by_name"), objective="multi_similarity", config=fields)
    assert rows(by_name.workdir)[0]["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)


@pytest.mark.long
def test_an_objective_of_ones_own_trains_the_unit(plain, tmp_path):
    still = train(tmp_path / "still", optimizer=optax.set_to_zero())
    run = train(tmp_path / "run", objective=by_unit)
    assert changed(run, still, "unit")
    embeddings = run.embed(noisy(1))
    expected = pddm_jax.score_matrix(jax.device_get(run.state.params["unit"]), embeddings)
    np.testing.assert_array_equal(run.score(embeddings), expected)
    assert run.nearest(embeddings[:2], embeddings, 3, by="pddm")[1].shape == (2, 3)


def test_a_loss_that_is_nan_names_the_step(tmp_path):
    def breaks(params, embeddings, labels):
        return embeddings.sum() * jnp.nan, {}

    with pytest.raises(FloatingPointError, match=r"step 1\b") as error:
        train(tmp_path, objective=breaks, steps=3, config=FIELDS | {"train.log_every": 1})
    assert "--replay cannot run it again: its network and its objective were given from Python" in one_line(
        error
    )


# ------------------------------------------------------------------------------ labels and images


@pytest.mark.long
def test_labels_of_any_kind_are_numbered_alike(plain, tmp_path):
    kinds = {
        "strings": [f"class {label}" for label in LABELS],
        "array": np.array([f"class {label}" for label in LABELS]),
        "scalars": [*LABELS.astype(np.uint8)],
        "wide": LABELS * 2**40 - 5,
    }
    for name, labels in kinds.items():
        assert_equal_bits(train(tmp_path / name, labels=labels), plain)


def test_arrays_of_three_and_four_axes_train_alike(plain, tmp_path):
    assert_equal_bits(train(tmp_path, images=noisy(1)[..., 0]), plain)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    write_pngs(root, CLASSES, 4)
    return root


def test_files_pictures_arrays_and_a_folder_train_alike(photos, tmp_path):
    paths = sorted(photos.glob("*/*.png"))
    labels = [path.parent.name for path in paths]
    arrays = [np.asarray(Image.open(path)) for path in paths]
    assert len({array.shape for array in arrays}) == 3
    fields = FIELDS | {"data.image_size": 8}
    by_paths = train(tmp_path / "paths", paths, labels, config=fields)
    opened = [Image.open(path) if number % 2 else arrays[number] for number, path in enumerate(paths)]
    assert_equal_bits(train(tmp_path / "opened", opened, labels, config=fields), by_paths)
    run = train(tmp_path / "folder", str(photos), None, config=fields)
    assert_equal_bits(run, by_paths)
    assert_equal_bits(pddm_jax.load(tmp_path / "folder", Flat()), run)
    np.testing.assert_array_equal(by_paths.embed(arrays), by_paths.embed(paths))


@pytest.mark.long
def test_images_of_any_size_have_64_pixels_by_default(photos, tmp_path):
    run = train(tmp_path, photos, None)
    assert run.config["image_shape"] == [64, 64, 3]


def test_test_images_are_evaluated(plain, tmp_path):
    fields = FIELDS | {"train.eval_every": 1}
    given = {"test_images": noisy(1, seed=3), "test_labels": [f"other {n}" for n in LABELS]}
    run = train(tmp_path, config=fields, **given)
    found = [row for row in rows(tmp_path) if "recall_at_1" in row]
    assert [row["step"] for row in found] == [1, 2]
    expected = pddm_jax.recall_at_k(run.embed(given["test_images"]), LABELS, ks=(1,))[1]
    assert found[-1]["recall_at_1"] == pytest.approx(expected, abs=1e-9)
    assert found[-1]["map_at_r"] == pytest.approx(
        pddm_jax.map_at_r(run.embed(given["test_images"]), LABELS), abs=1e-9
    )
    assert_equal_bits(run, plain)


def test_test_images_are_cropped_and_resized_as_by_embed(plain, tmp_path):
    images = [*noisy(3, seed=3)[:, :, 1:], *noisy(None, seed=4).repeat(2, axis=1), *noisy(1, seed=5)]
    labels = np.concatenate([LABELS, LABELS, LABELS])
    run = train(tmp_path, test_images=images, test_labels=labels)
    expected = pddm_jax.recall_at_k(plain.embed(images), labels, ks=(1,))[1]
    assert rows(tmp_path)[-1]["recall_at_1"] == pytest.approx(expected, abs=1e-9)
    assert_equal_bits(run, plain)


def test_grey_images_among_color_images_are_trained_on_as_rgb(tmp_path):
    grey, fields = noisy(1), FIELDS | {"data.image_size": 8}
    color = grey.repeat(3, axis=-1)
    mixed = [color[0], *grey[1:12], *noisy(None)[12:]]
    assert_equal_bits(
        train(tmp_path / "mixed", images=mixed, config=fields),
        train(tmp_path / "rgb", images=[*color], config=fields),
    )


def test_fields_are_those_of_the_command_line(tmp_path):
    fields = {"optimizer.learning_rate": 1e-2, "train.log_every": 1, "objective.alpha": 0.25}
    run = train(tmp_path, config=FIELDS | fields, seed=3)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    for name, value in (FIELDS | fields).items():
        group, field = name.split(".")
        assert config[group][field] == run.config[group][field] == value
    assert config["seed"] == 3
    assert config["train"]["steps"] == 2
    assert len(rows(tmp_path)) == 2


def test_numbers_of_numpy_are_numbers(plain, tmp_path):
    fields = FIELDS | {"optimizer.learning_rate": np.float64(3e-3), "train.log_every": np.int32(25)}
    assert_equal_bits(train(tmp_path, steps=np.int64(2), seed=np.uint8(0), config=fields), plain)


def test_validation_classes_choose_the_checkpoint(tmp_path):
    fields = {"data.val_class_fraction": 0.34, "train.eval_every": 1, "train.checkpoint_every": 1}
    fields |= {name: x for name, x in FIELDS.items() if name != "data.classes_per_batch"}
    run = train(tmp_path, steps=3, config=fields | {"data.images_per_class": 2})
    assert run.config["data"]["classes_per_batch"] == 4  # all that two validation classes leave
    name = "validation_map_at_r"
    measured = {row["step"]: row[name] for row in rows(tmp_path) if name in row}
    assert len(measured) == 3
    assert measured[run.step] == max(measured.values())


@pytest.mark.long
def test_a_network_may_scale_its_images_itself(tmp_path):
    network = embedding_network(Flat(), 5, mean=100.0, std=50.0)
    run = train(tmp_path, network=network)
    assert run.embed(noisy(1)).shape == (24, 5)
    assert_equal_bits(pddm_jax.load(tmp_path, network), run)
    variables = {"params": run.state.params["network"], "batch_stats": run.state.batch_stats}
    expected = jax.jit(network.apply)(variables, noisy(1))
    np.testing.assert_allclose(run.embed(noisy(1)), expected, atol=1e-5)


def test_a_workdir_in_use_is_refused(tmp_path):
    with Lock(tmp_path, "workdir"), pytest.raises(ValueError, match="in use") as error:
        train(tmp_path)
    assert "workdir" in one_line(error)


@pytest.mark.long
def test_another_optimizer_is_refused_where_its_state_does_not_fit(tmp_path):
    train(tmp_path, optimizer=optax.sgd(0.1), steps=1)
    with pytest.raises(ValueError, match="optimizer") as error:
        train(tmp_path, optimizer=optax.adam(0.1), steps=2)
    one_line(error)


@pytest.mark.long
def test_the_command_embeds_by_a_run_from_python(photos, tmp_path):
    run = train(tmp_path / "run", photos, None, network="small_cnn", config=FIELDS | {"data.image_size": 8})
    stored = embed(tmp_path / "run", tmp_path / "out", name="folder", root=str(photos))
    expected = run.embed(sorted(photos.glob("*/*.png")))
    np.testing.assert_allclose(stored.embeddings, expected, atol=1e-6)


def test_no_parameter_is_nan(plain):
    assert all(np.isfinite(leaf).all() for leaf in leaves(plain).values())
    assert np.isfinite(plain.embed(np.zeros((2, 8, 10), np.uint8))).all()


# ---------------------------------------------------------------------------------------- refusals


def loss_alone(params, embeddings, labels):
    return jnp.sum(embeddings)


def loss_of_each(params, embeddings, labels):
    return jnp.sum(embeddings, axis=1), {}


def logs_of_each(params, embeddings, labels):
    return jnp.sum(embeddings), {"each": jnp.sum(embeddings, axis=1)}


def logs_are_a_list(params, embeddings, labels):
    return jnp.sum(embeddings), [jnp.sum(embeddings)]


def of_two(params, embeddings):
    return jnp.sum(embeddings), {}


class Images(nn.Module):
    """Features that are no matrix."""

    @nn.compact
    def __call__(self, images):
        return nn.Conv(2, (3, 3))(images)


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dropout(0.5, deterministic=not train)(images.reshape(len(images), -1))


REFUSED = [
    ({"labels": LABELS[:-1]}, r"labels.*23.*24|labels.*24.*23"),
    ({"labels": np.zeros(24, int)}, r"labels.* 1\b"),
    ({"labels": np.arange(24)}, r"labels.* 0\b"),
    ({"labels": LABELS.astype(float)}, "labels"),
    ({"labels": LABELS[:, None]}, "labels"),
    ({"labels": [None] * 24}, "labels"),
    ({"labels": [*LABELS[:-1].tolist(), "x"]}, "labels"),
    ({"labels": None}, "labels"),
    ({"labels": 3}, "labels"),
    ({"images": noisy(1).astype(np.float32)}, r"images.*uint8"),
    ({"images": noisy(1) / 255}, r"images.*uint8"),
    ({"images": noisy(2)}, "images"),
    ({"images": noisy(1)[:0], "labels": []}, "images must not be empty"),
    ({"images": [], "labels": []}, "images must not be empty"),
    ({"images": None}, "images"),
    ({"images": {"a": 1}}, "images"),
    ({"images": ["nothing.png"] * 24}, r"images\[0\].*nothing\.png"),
    ({"images": "nowhere", "labels": None}, "nowhere"),
    ({"images": "nowhere"}, r"labels|nowhere"),
    ({"objective": "pdm"}, r"objective.*'pddm'.*'pdm'"),
    ({"objective": None}, "objective"),
    ({"objective": 3}, "objective"),
    ({"objective": loss_alone}, "objective"),
    ({"objective": loss_of_each}, "objective"),
    ({"objective": logs_of_each}, "objective"),
    ({"objective": logs_are_a_list}, "objective"),
    ({"objective": of_two}, r"objective.*\(params, embeddings, labels\)"),
    ({"network": "smal_cnn"}, r"network.*'small_cnn'.*'smal_cnn'"),
    ({"network": Flat}, r"network.*Flat"),
    ({"network": None}, "network"),
    ({"network": nnx.Linear}, "network"),
    ({"network": NNX(nnx.Rngs(0))}, "network"),
    ({"network": Images()}, "network"),
    ({"optimizer": "adam"}, "optimizer"),
    ({"optimizer": optax.adam}, "optimizer"),
    ({"optimizer": 1e-3}, "optimizer"),
    ({"steps": 0}, "steps"),
    ({"steps": True}, "steps"),
    ({"steps": -1}, "steps"),
    ({"steps": 2.0}, "steps"),
    ({"steps": None}, "steps"),
    ({"steps": "2"}, "steps"),
    ({"seed": -1}, "seed"),
    ({"seed": True}, "seed"),
    ({"seed": 0.5}, "seed"),
    ({"seed": None}, "seed"),
    ({"test_images": noisy(1)}, "test_labels"),
    ({"test_labels": LABELS}, "test_images"),
    ({"test_images": noisy(1), "test_labels": LABELS[:-1]}, "test_labels"),
    ({"test_images": noisy(1) / 255, "test_labels": LABELS}, "test_images"),
    ({"test_images": noisy(1)[:0], "test_labels": []}, "test_images"),
    ({"test_images": noisy(1), "test_labels": np.arange(24)}, "test_labels"),
    ({"config": {"optimizer.rate": 1}}, r"optimizer\.rate"),
    ({"config": {"rate": 1}}, "rate"),
    ({"network": Dropping()}, "network must not draw random numbers"),
    ({"objective": lambda params, x, labels: x.sum()}, "tuple of a scalar loss and a dict.*got a scalar"),
    (
        {"objective": lambda params, x: (x.sum(), {})},
        r"\(params, embeddings, labels\), but takes \(params, x\)",
    ),
    ({"config": {"optimizer": {"learning_rate": 1}}}, "optimizer"),
    ({"config": {"optimizer.unit_factor": 1.0}}, r"optimizer\.unit_factor.*optimizer\.pddm_lr_multiplier"),
    ({"config": {"objective.per": "batch"}}, r"objective\.per.*objective\.mining_scope"),
    ({"config": {"optimizer.learning_rate": "fast"}}, r"optimizer\.learning_rate"),
    ({"config": {"optimizer.learning_rate": -1.0}}, r"optimizer\.learning_rate"),
    ({"config": {"objective.margin": 1.0}}, "margin"),
    ({"config": {"train.eval_every": 0}}, r"train\.eval_every"),
    ({"config": {"data.classes_per_batch": 7}}, r"classes"),
    ({"config": {"data.classes_per_batch": 1}}, r"data\.classes_per_batch"),
    ({"config": {"data.root": "nowhere"}}, r"data\.root"),
    ({"config": {"data.name": "glyphs"}}, r"data\.name"),
    ({"config": {"objective.name": "triplet"}}, "objective"),
    ({"config": {"network.name": "alexnet"}}, "network"),
    ({"config": {"train.steps": 7}}, r"steps"),
    ({"config": {"seed": 7}}, "seed"),
    ({"config": {"network.remat": True}}, r"network\.remat"),
    ({"config": {"network.pretrained": "weights.pth"}}, r"network\.pretrained"),
    ({"config": {"data.seen_test": 0.5}}, r"data\.seen_test"),
    ({"config": {3: 7}}, "config"),
    ({"config": ["train.eval_every"]}, "config"),
    ({"config": "train.eval_every=3"}, "config"),
]


@pytest.mark.parametrize(
    ("wrong", "words"),
    REFUSED,
    ids=[f"{number} {' '.join(wrong)}" for number, (wrong, _) in enumerate(REFUSED)],
)
def test_what_is_wrong_is_refused_in_one_line(wrong, words, tmp_path):
    config = (
        FIELDS | wrong["config"] if isinstance(wrong.get("config"), dict) else wrong.get("config", FIELDS)
    )
    given = {"images": noisy(1), "labels": LABELS, "network": Flat()} | wrong | {"config": config}
    images, labels = given.pop("images"), given.pop("labels")
    with pytest.raises((ValueError, OSError), match=words) as error:
        pddm_jax.train(images, labels, workdir=tmp_path / "run", **({"steps": 1} | given))
    one_line(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workdir", [None, 3, "", b"run", "\0"])
def test_a_workdir_that_is_no_path_is_refused(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match="workdir") as error:
        train(workdir)
    one_line(error)
    assert not [*tmp_path.iterdir()]


def test_a_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises((ValueError, OSError), match="file") as error:
        train(tmp_path / "file")
    one_line(error)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


# ------------------------------------------------------------------------------------------- identity


class Activated(nn.Module):
    """A layer and an activation, whose repr has the address of a function."""

    act: object

    @nn.compact
    def __call__(self, images):
        return self.act(nn.Dense(5)(images.reshape(len(images), -1)))


LEAKY = functools.partial(nn.leaky_relu, negative_slope=0.2)


@pytest.mark.long
def test_a_module_is_known_again_without_addresses_and_told_from_others(tmp_path):
    run = train(tmp_path / "run", network=Activated(LEAKY))
    text = json.loads((tmp_path / "run" / "config.json").read_text())["python"]["network"]
    assert "negative_slope=0.2" in text
    assert "0x" not in text
    again = Activated(functools.partial(nn.leaky_relu, negative_slope=0.2))
    assert_equal_bits(pddm_jax.load(tmp_path / "run", network=again), run)
    assert_equal_bits(train(tmp_path / "run", network=again), run)
    with pytest.raises(ValueError, match="another network") as error:
        pddm_jax.load(tmp_path / "run", network=Activated(nn.tanh))
    one_line(error)
    train(tmp_path / "named", network="small_cnn")
    with pytest.raises(ValueError, match="'small_cnn': load it without a network"):
        pddm_jax.load(tmp_path / "named", network=again)


@pytest.mark.long
def test_another_optimizer_does_not_go_on_with_a_run(tmp_path):
    fields = {name: x for name, x in FIELDS.items() if not name.startswith("optimizer.")}
    train(tmp_path, optimizer=optax.adam(1e-3), config=fields)
    for other in (optax.adam(1.0), optax.sgd(1.0), optax.identity()):
        with pytest.raises(ValueError, match=r"python\.optimizer") as error:
            train(tmp_path, optimizer=other, steps=4, config=fields)
        one_line(error)
    assert train(tmp_path, optimizer=optax.adam(1e-3), steps=4, config=fields).step == 4


@pytest.mark.long
def test_an_optimizer_without_a_state_goes_on(tmp_path):
    fields = {name: x for name, x in FIELDS.items() if not name.startswith("optimizer.")}
    run = train(tmp_path / "whole", optimizer=optax.sgd(0.1), steps=4, config=fields)
    train(tmp_path / "parts", optimizer=optax.sgd(0.1), steps=2, config=fields)
    assert_equal_bits(train(tmp_path / "parts", optimizer=optax.sgd(0.1), steps=4, config=fields), run)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"optimizer": optax.sgd(0.1), "config": {"optimizer.warmup": 3}},
            r"optimizer\.warmup has no effect",
        ),
        (
            {"objective": lambda *_: (0.0, {}), "config": {"objective.alpha": 0.1}},
            r"objective\.alpha has no effect",
        ),
        (
            {"network": embedding_network(Flat(), 8), "config": {"network.embedding_dim": 32}},
            r"network\.embedding_dim has no effect",
        ),
        (
            {"config": FIELDS | {"network.freeze_batch_stats": True}},
            r"network\.freeze_batch_stats applies only",
        ),
        ({"config": FIELDS | {"data.image_size": 32}}, r"data\.image_size needs data\.augment"),
        ({"config": FIELDS | {"data.shift": 8}}, r"data\.shift must be below the image size, 8 pixels"),
    ],
)
def test_fields_that_would_not_be_used_are_refused(more, words, tmp_path):
    with pytest.raises(ValueError, match=words) as error:
        train(tmp_path / "run", **more)
    one_line(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_files_in_another_order_are_other_images(tmp_path):
    write_pngs(tmp_path / "images", 4, 4)
    paths = sorted((tmp_path / "images").rglob("*.png"))
    labels, fields = [path.parent.name for path in paths], FIELDS | {"data.image_size": 8}
    train(tmp_path / "run", paths, labels, network="small_cnn", config=fields)
    swapped = [paths[1], paths[0], *paths[2:]]
    with pytest.raises(ValueError, match="images that have changed"):
        train(tmp_path / "run", swapped, labels, network="small_cnn", steps=4, config=fields)
