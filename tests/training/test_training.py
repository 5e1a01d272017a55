"""Objectives, networks, the train step and its loop, checkpoints, and the files that a run writes."""

import io
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tqdm import tqdm

from pddm_jax import PDDM
from pddm_jax.losses import contrastive_loss
from pddm_jax.losses.objectives import OBJECTIVES, has_classifier, make_objective
from pddm_jax.networks import EmbeddingNetwork, make_network
from pddm_jax.sharding import data_mesh, global_batches, replicated
from pddm_jax.system.files import NotWritten, replacing, write_json, write_text
from pddm_jax.training import writer as writer_module
from pddm_jax.training.checkpoint import Checkpoints, Preempted
from pddm_jax.training.checkpoint_files import Damaged, restore_chosen
from pddm_jax.training.loop import fit
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.state import TrainState, init_state
from pddm_jax.training.step import make_embed, make_train_step
from pddm_jax.training.writer import Writer, known_rows, read_rows
from pddm_jax.types import Batch

P, K, WIDTH = 8, 3, 8
LABELS = np.repeat(np.arange(P, dtype=np.int32), K)
SGD = {
    "name": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 0.0,
    "schedule": "constant",
    "clip_norm": 1e9,
    "warmup": 0,
    "pddm_lr_multiplier": 1.0,
    "backbone_lr_multiplier": 1.0,
}


@pytest.fixture(scope="module")
def unit():
    return PDDM(hidden=WIDTH, joint=WIDTH)


@pytest.fixture(scope="module")
def params(unit):
    of_unit = jax.jit(unit.init)(jax.random.key(2), *jnp.zeros((2, 1, WIDTH)))["params"]
    return {"unit": of_unit, "classifier": {"kernel": jnp.eye(WIDTH)}}


@pytest.fixture(scope="module")
def embeddings():
    x = np.random.default_rng(0).normal(size=(P * K, WIDTH)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# ------------------------------------------------------------------------------------------ objectives


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_finite_and_trains_what_it_says(name, params, embeddings):
    loss, fields = make_objective(name, pairs=P * K * (K - 1) // 2)
    assert fields == OBJECTIVES[name].defaults
    differentiate = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, logs), (of_params, of_embeddings) = differentiate(params, embeddings, LABELS)
    for x in jax.tree.leaves((value, logs, of_params, of_embeddings)):
        assert np.isfinite(x).all()
    assert value > 0
    assert value.shape == ()
    assert np.abs(of_embeddings).max() > 0
    trained = {
        part: max(np.abs(x).max() for x in jax.tree.leaves(of)) > 0 for part, of in of_params.items()
    }
    assert trained == {"unit": OBJECTIVES[name].learns_score, "classifier": has_classifier(fields)}


@pytest.mark.parametrize(
    ("name", "per"),
    [("pddm", "positive"), ("pddm", "batch"), ("quadruplet", "positive"), ("quadruplet", "anchor")],
)
def test_the_number_of_pairs_changes_no_value(name, per, params, embeddings):
    shuffled = np.random.default_rng(1).permutation(LABELS)
    values = [
        make_objective(name, pairs, mining_scope=per)[0](params, embeddings, shuffled)
        for pairs in (None, P * K * (K - 1) // 2)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *values)


def test_scopes_and_heads_make_a_difference(params, embeddings):
    def value(name, **fields):
        return float(make_objective(name, **fields)[0](params, embeddings, LABELS)[0])

    values = [value("pddm", mining_scope=per) for per in ("batch", "anchor", "positive")]
    values += [
        value("pddm_triplet"),
        value("pddm", alpha=0.7),
        value("pddm", beta=0.7),
        value("pddm", weight=0.7),
    ]
    assert len({round(x, 4) for x in values}) == len(values)


@pytest.mark.parametrize("name", ["pddm", "pddm_triplet"])
def test_the_logs_of_pddm_make_up_its_loss(name, params, embeddings):
    value, logs = make_objective(name, weight=0.25)[0](params, embeddings, LABELS)
    np.testing.assert_allclose(value, logs["loss_metric"] + 0.25 * logs["loss_embedding"], rtol=1e-6)


def test_an_unknown_objective_lists_what_exists():
    with pytest.raises(ValueError, match=r"objective\.name.*'contrastive'.*'pddm'.*got 'nope'"):
        make_objective("nope")


@pytest.mark.parametrize(
    ("name", "field", "known"), [("pddm", "margin", "alpha"), ("triplet", "mining", "margin")]
)
def test_an_unknown_field_lists_what_exists(name, field, known):
    with pytest.raises(ValueError, match=rf"'{name}'.*'{known}'.*got '{field}'"):
        make_objective(name, **{field: 1.0})


# -------------------------------------------------------------------------------------------- networks


def test_a_network_makes_embeddings_of_unit_length():
    network = make_network("small_cnn", 12)
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 1), dtype=np.uint8)

    @jax.jit
    def forward(images):
        variables = network.init(jax.random.key(0), images)
        trained, updated = network.apply(variables, images, train=True, mutable=["batch_stats"])
        return variables, updated, trained, network.apply(variables, images)

    variables, updated, *found = forward(images)
    for x in found:
        assert x.shape == (6, 12)
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.01
    different = jax.tree.map(
        lambda a, b: bool((a != b).any()), variables["batch_stats"], updated["batch_stats"]
    )
    assert all(jax.tree.leaves(different))


def test_networks_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"network\.dtype.*'bfloat16'.*got 'float16'"):
        make_network("small_cnn", 8, dtype="float16")
    with pytest.raises(ValueError, match=r"network\.name.*'small_cnn'.*got 'nope'"):
        make_network("nope", 8)
    with pytest.raises(ValueError, match=r"embedding_dim must be 0 or more, got -1"):
        make_network("small_cnn", -1)
    with pytest.raises(ValueError, match=r"network\.microbatches must be 1 or more, got 0"):
        make_network("small_cnn", 8, microbatches=0)


# ----------------------------------------------------------------------------------------- optimisers


def test_unknown_optimizers_and_schedules_list_what_exists():
    with pytest.raises(ValueError, match=r"optimizer\.name.*'adamw', 'sgd'.*got 'lion'"):
        make_optimizer(**SGD | {"name": "lion"}, steps=1)
    with pytest.raises(ValueError, match=r"optimizer\.schedule.*'constant', 'cosine'.*got 'step'"):
        make_optimizer(**SGD | {"schedule": "step"}, steps=1)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weight_decay_is_on_kernels_only(name):
    fields = SGD | {"name": name, "weight_decay": 0.5}
    params = {
        "kernel": jnp.full((2, 3), 2.0),
        "filter": jnp.ones((3, 3, 1, 1)),
        "bias": jnp.ones(3),
        "scale": jnp.ones(()),
    }
    optimizer = make_optimizer(**fields, steps=10)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5 * 2, rtol=1e-6)
    np.testing.assert_allclose(updates["filter"], -0.1 * 0.5, rtol=1e-6)
    assert not updates["bias"].any()
    assert not updates["scale"].any()


@pytest.mark.parametrize(("schedule", "half", "last"), [("cosine", 0.05, 0.0), ("constant", 0.1, 0.1)])
def test_schedules(schedule, half, last):
    params, gradient = {"x": jnp.zeros(1)}, {"x": jnp.ones(1)}
    optimizer = make_optimizer(**SGD | {"name": "adamw", "schedule": schedule}, steps=8)
    state = optimizer.init(params)
    sizes = []
    for _ in range(9):
        updates, state = optimizer.update(gradient, state, params)
        sizes.append(-float(updates["x"][0]))  # Adam, on a constant gradient, moves by the rate
    np.testing.assert_allclose([sizes[0], sizes[4], sizes[8]], [0.1, half, last], atol=1e-6)


def test_gradients_are_clipped_by_their_global_norm():
    params = {"x": jnp.zeros(1), "y": jnp.zeros(1)}
    optimizer = make_optimizer(**SGD | {"clip_norm": 1.0}, steps=1)
    gradients = {"x": jnp.array([30.0]), "y": jnp.array([40.0])}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose([updates["x"][0], updates["y"][0]], [-0.06, -0.08], rtol=1e-6)


def test_the_rate_warms_up_and_parts_have_rates_of_their_own():
    factors = {"pddm_lr_multiplier": 5.0, "backbone_lr_multiplier": 0.1}
    optimizer = make_optimizer(**SGD | factors | {"warmup": 4}, steps=10)
    params = {"network": {"backbone": jnp.zeros(1), "embedding": jnp.zeros(1)}, "unit": jnp.zeros(1)}
    state, moved = optimizer.init(params), []
    for _ in range(6):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
        of_parts = updates["network"]["embedding"], updates["unit"], updates["network"]["backbone"]
        moved.append([-float(update[0]) for update in of_parts])
    momentum = np.cumsum(0.9 ** np.arange(6))
    expected = 0.1 * momentum * [0.2, 0.4, 0.6, 0.8, 1, 1]
    np.testing.assert_allclose([m[0] for m in moved], expected, rtol=1e-5)
    np.testing.assert_allclose([m[1] for m in moved], 5 * expected, rtol=1e-5)
    np.testing.assert_allclose([m[2] for m in moved], 0.1 * expected, rtol=1e-5)


# ----------------------------------------------------------------------------------------- train step


class Linear(nn.Module):
    """The smallest backbone."""

    @nn.compact
    def __call__(self, images, train=False):
        return nn.relu(nn.Dense(16)(images.reshape(len(images), -1)))


SHAPE = (4, 4, 1)
NETWORK = EmbeddingNetwork(Linear(), WIDTH)


def test_a_backbone_computes_in_bfloat16_and_its_parameters_stay_float32():
    images = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    rough = EmbeddingNetwork(Linear(), WIDTH, dtype="bfloat16")
    variables = jax.jit(NETWORK.init)(jax.random.key(0), images)
    jax.tree.map(np.testing.assert_array_equal, variables, jax.jit(rough.init)(jax.random.key(0), images))

    def total(params, network):
        x, _ = network.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
        return x[:, 0].sum(), x

    gradients = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    (exact, x), (gradient, near) = (gradients(variables["params"], of) for of in (NETWORK, rough))
    assert {leaf.dtype for leaf in jax.tree.leaves((gradient, near))} == {np.dtype(np.float32)}
    assert 1e-4 < np.abs(near - x).max() < 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.1 * np.abs(b).max()), gradient, exact)


class Problem(NamedTuple):
    state: TrainState
    step: Callable
    batch: Batch


@cache
def compiled(objective, name, learning_rate):
    """A fresh state on the host, and the step; each is compiled once for all tests."""
    mesh = data_mesh()
    optimizer = make_optimizer(**SGD | {"name": name, "learning_rate": learning_rate}, steps=100)
    loss, _ = make_objective(objective, pairs=P * K * (K - 1) // 2)
    state = init_state(NETWORK, PDDM(WIDTH, WIDTH), optimizer, SHAPE, 0, mesh)
    return copy(state), make_train_step(NETWORK, loss, optimizer, mesh)


def make_problem(objective="contrastive", name="sgd", learning_rate=0.1):
    """A class is a pattern of 4 x 4 pixels, an image a noisy one."""
    rng = np.random.default_rng(5)
    patterns = rng.integers(0, 156, (P, *SHAPE))
    images = (patterns[LABELS] + rng.integers(0, 100, (P * K, *SHAPE))).astype(np.uint8)
    state, step = compiled(objective, name, learning_rate)
    mesh = data_mesh()
    (batch,) = global_batches(iter([Batch(images, LABELS)]), mesh)
    return Problem(jax.device_put(state, replicated(mesh)), step, batch)


def copy(tree):
    return jax.tree.map(np.array, tree)


def test_one_step_of_sgd_is_the_plain_one():
    problem = make_problem()
    before = copy(problem.state)
    after, logs = problem.step(problem.state, problem.batch)

    @jax.jit
    def plain(network_params, images):
        variables = {"params": network_params, "batch_stats": before.batch_stats}
        x, updated = NETWORK.apply(variables, images, train=True, mutable=["batch_stats"])
        return contrastive_loss(x, LABELS), updated["batch_stats"]

    differentiate = jax.value_and_grad(plain, has_aux=True)
    (value, batch_stats), gradients = differentiate(
        before.params["network"], np.asarray(problem.batch.images)
    )
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, before.params["network"], gradients)

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    def norm(tree):
        return np.sqrt(sum(np.square(np.asarray(x, np.float64)).sum() for x in jax.tree.leaves(tree)))

    jax.tree.map(close, after.params["network"], expected)
    jax.tree.map(close, after.batch_stats, batch_stats)
    jax.tree.map(np.testing.assert_array_equal, copy(after.params["unit"]), before.params["unit"])
    close(logs["loss"], value)
    close(logs["gradient_norm"], norm(gradients))
    close(logs["parameter_norm"], norm(after.params))


@pytest.mark.parametrize(("objective", "name"), [("pddm", "adamw"), ("contrastive", "sgd")])
def test_the_loss_falls_and_one_compilation_serves_all_steps(objective, name):
    problem = make_problem(objective, name, learning_rate=0.01)
    state, first = problem.state, copy(problem.state)
    losses = []
    for _ in range(30):
        state, logs = problem.step(state, problem.batch)
        losses.append(float(logs["loss"]))
    assert losses[-1] < 0.7 * losses[0]
    assert int(state.step) == 30
    assert problem.step._cache_size() == 1
    trained = ["batch_stats"] if objective == "contrastive" else ["params", "batch_stats"]
    for part in trained:
        changed = jax.tree.map(
            lambda a, b: bool((a != b).any()), getattr(first, part), getattr(state, part)
        )
        assert all(jax.tree.leaves(changed)), changed


def test_the_state_is_donated_and_stays_replicated():
    problem = make_problem()
    after, _ = problem.step(problem.state, problem.batch)
    assert all(x.is_deleted() for x in jax.tree.leaves(problem.state.params))
    assert not any(x.is_deleted() for x in jax.tree.leaves((after, problem.batch)))
    assert all(x.is_fully_replicated for x in jax.tree.leaves(after))


def test_the_seed_makes_the_state(unit):
    optimizer = make_optimizer(**SGD, steps=1)
    again, other = (init_state(NETWORK, unit, optimizer, SHAPE, seed, data_mesh()) for seed in (0, 1))
    first, _ = compiled("contrastive", "sgd", 0.1)
    jax.tree.map(np.testing.assert_array_equal, again.params, first.params)
    for part, layer in (("network", "embedding"), ("unit", "joint")):
        assert (again.params[part][layer]["kernel"] != other.params[part][layer]["kernel"]).any()
    assert int(again.step) == 0
    assert all(x.is_fully_replicated for x in jax.tree.leaves(again))


def test_embed_is_the_network_batch_by_batch():
    problem = make_problem()
    state, _ = problem.step(problem.state, problem.batch)  # so that there are statistics
    images = np.random.default_rng(0).integers(0, 256, (24, *SHAPE), dtype=np.uint8)
    found = make_embed(NETWORK, data_mesh())(state, images.reshape(3, 8, *SHAPE))
    variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
    np.testing.assert_allclose(found, NETWORK.apply(variables, images), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_embed_is_compiled_once(caplog):
    state = make_problem().state
    embed = make_embed(NETWORK, data_mesh())
    batches = np.zeros((4, 8, *SHAPE), np.uint8)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        embed(state, batches[:1])
        assert "ompil" in caplog.text
        caplog.clear()
        for n in (1, 3, 4):
            embed(state, batches[:n])
    assert "ompil" not in caplog.text


# ------------------------------------------------------------------------------------------------- fit


class Counter(NamedTuple):
    step: int


def count(bad=()):
    def step(state, batch):
        number = state.step + 1
        return Counter(number), {
            "loss": np.float32(np.inf if number in bad else batch),
            "other": np.float32(1),
        }

    return step


def test_fit_goes_on_from_the_states_step_and_logs_the_step_itself():
    seen = []

    def after_step(step, state, logs):
        assert state.step == step
        seen.append((step, logs()["loss"] if step % 2 else None))
        return False

    final = fit(Counter(3), count(), iter(range(100)), 7, after_step)
    assert final.step == 7
    assert seen == [(4, None), (5, 1.0), (6, None), (7, 3.0)]


def test_fit_stops_where_it_is_told_to():
    batches = iter(range(100))
    assert fit(Counter(0), count(), batches, 50, lambda step, state, logs: step == 5).step == 5
    assert next(batches) == 5


@pytest.mark.parametrize("first", [1, 3, 6, 7])
def test_fit_names_the_first_step_that_was_not_finite(first):
    asked = []

    def after_step(step, state, logs):
        asked.append(step)
        if step in (3, 7):
            logs()
        return False

    with pytest.raises(FloatingPointError, match=rf"at step {first}: .*'loss': inf"):
        fit(Counter(0), count({*range(first, 9)}), iter(range(100)), 8, after_step)
    assert asked[-1] == (3 if first <= 3 else 7)


def test_fit_names_one_bad_step_between_good_ones():
    with pytest.raises(FloatingPointError, match="at step 2: "):
        fit(Counter(0), count({2}), iter(range(9)), 5, lambda step, state, logs: step == 5 and bool(logs()))


# ----------------------------------------------------------------------------------------- checkpoints


def test_checkpoints_come_back_to_the_bit_and_the_last_ones_are_kept(tmp_path):
    problem = make_problem("pddm", "adamw", 0.01)
    state, saved = problem.state, None
    with Checkpoints(tmp_path / "checkpoints", max_to_keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for step in range(1, 5):
            state, _ = problem.step(state, problem.batch)
            saved = copy(state)
            checkpoints.save(step, state)
            checkpoints.save(step, state)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]
    with Checkpoints(tmp_path / "checkpoints", max_to_keep=2) as checkpoints:
        assert checkpoints.latest_step() == 4
        restored = checkpoints.restore(4, make_problem("pddm", "adamw", 0.01).state)
        assert checkpoints.best_step() is None
        assert not checkpoints.preempted(5)
    jax.tree.map(np.testing.assert_array_equal, restored, saved)
    again, _ = problem.step(restored, problem.batch)
    straight, _ = problem.step(state, problem.batch)
    jax.tree.map(np.testing.assert_array_equal, copy(again), copy(straight))


def test_the_checkpoint_of_best_score_is_kept_beside_the_last_ones(tmp_path):
    problem = make_problem()
    state, saved = problem.state, {}
    with Checkpoints(tmp_path, max_to_keep=1, scored=True) as checkpoints:
        for step, score in enumerate([0.3, 0.9, 0.5, None], 1):
            state, _ = problem.step(state, problem.batch)
            saved[step] = copy(state)
            checkpoints.save(step, state, score)
        assert checkpoints.best_step() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]
    with Checkpoints(tmp_path, max_to_keep=1, scored=True) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 2)
        restored = checkpoints.restore(2, make_problem().state)
    jax.tree.map(np.testing.assert_array_equal, restored, saved[2])


SCORES = {1: 0.3, 2: 0.9, 3: 0.5}


@cache
def three_checkpoints():
    """Three states, and a folder of the checkpoints of each kind; the best is of step 2."""
    root, saved = Path(tempfile.mkdtemp()), {}
    problem = make_problem("pddm", "adamw", 0.01)
    state = problem.state
    with Checkpoints(root / "plain", 2) as plain, Checkpoints(root / "scored", 2, scored=True) as scored:
        for step, score in SCORES.items():
            state, _ = problem.step(state, problem.batch)
            saved[step] = copy(state)
            plain.save(step, state, about={"rows": [step]})
            scored.save(step, state, score)
    return root, saved


@pytest.fixture
def three(tmp_path):
    """`three(kind)`: a copy of the folder, and the states."""
    root, saved = three_checkpoints()

    def three(kind):
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        return Path(shutil.copytree(root / kind, tmp_path / kind)), saved

    return three


def resume(folder, scored=False):
    with Checkpoints(folder, 2, scored) as checkpoints:
        return checkpoints.resume(make_problem("pddm", "adamw", 0.01).state)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, lambda path: path.write_bytes(b"")])
def test_whatever_file_is_damaged_a_state_that_was_saved_comes_back_in_one_line(damage, three, capfd):
    folder, saved = three("plain")
    files = [path.relative_to(folder) for path in sorted((folder / "3").rglob("*")) if path.is_file()]
    found = {}
    for file in files:
        three("plain")
        damage(folder / file)
        resumed = resume(folder)
        step = int(resumed.state.step)
        jax.tree.map(np.testing.assert_array_equal, resumed.state, saved[step])
        err = capfd.readouterr().err.splitlines()
        told = [line for line in err if f"{folder / '3'} is damaged: " in line and "damaged-3" in line]
        # A checkpoint whose record is gone with all that names it is as one of old.
        assert [line for line in err if "has no digests" not in line] == (told if step == 2 else [])
        assert (folder / "damaged-3").is_dir() == (step == 2)
        found[file] = step
    assert {*found.values()} == {2, 3}
    needed = Path("3/record/metadata"), *(file for file in files if file.match("3/default/d/*"))
    assert {found[file] for file in needed} == {2}


@pytest.mark.parametrize("array", range(6))
def test_every_array_is_verified(array, three, tmp_path):
    """Saved by Orbax with one bit of one array changed, under the record of what was to be saved."""
    folder, saved = three("plain")
    leaves, structure = jax.tree.flatten(saved[3])
    place = array * (len(leaves) - 1) // 5
    changed = np.array(leaves[place])
    changed.reshape(-1).view(np.uint8)[-1] ^= 1
    state = jax.tree.unflatten(structure, [*leaves[:place], changed, *leaves[place + 1 :]])
    with Checkpoints(tmp_path / "other", 1) as checkpoints:
        checkpoints.save(3, jax.device_put(state, replicated(data_mesh())))
    shutil.rmtree(folder / "3" / "default")
    shutil.copytree(tmp_path / "other" / "3" / "default", folder / "3" / "default")
    assert int(resume(folder).state.step) == 2


def test_a_damaged_checkpoint_that_may_be_the_best_is_made_again(three, capfd):
    folder, saved = three("scored")
    assert int(resume(folder, scored=True).state.step) == 3
    path = folder / "3" / "metrics" / "metrics"
    path.write_text(path.read_text().replace("0.5", "0.95"))
    resumed = resume(folder, scored=True)  # else 3 would be chosen
    jax.tree.map(np.testing.assert_array_equal, resumed.state, saved[2])
    assert "its score is 0.95, and was 0.5" in capfd.readouterr().err
    three("scored")
    flip(max((folder / "2" / "default").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()))
    assert resume(folder, scored=True) is None  # what follows it would be the best instead
    assert sorted(path.name for path in folder.iterdir()) == ["damaged-2", "unused-3"]
    assert "the run starts anew" in capfd.readouterr().err
    three("scored")
    shutil.rmtree(folder / "2")
    assert resume(folder, scored=True) is None
    assert "of step 2, is missing" in capfd.readouterr().err


def test_of_damaged_checkpoints_a_reader_takes_the_next_and_changes_nothing(three):
    like = make_problem("pddm", "adamw", 0.01).state
    folder, saved = three("scored")
    state, told = restore_chosen(folder, like, scored=True)
    assert (int(state.step), told) == (2, "")
    truncate(folder / "2" / "record" / "metadata")
    before = sorted(folder.rglob("*"))
    state, told = restore_chosen(folder, like, scored=True)
    jax.tree.map(np.testing.assert_array_equal, state, saved[3])
    assert f"{folder / '2'} is damaged: record/metadata cannot be read" in told
    assert sorted(folder.rglob("*")) == before
    (folder / "3" / "default" / "_METADATA").unlink()
    with pytest.raises(Damaged, match=r"2 is damaged: .*3 is damaged: "):
        restore_chosen(folder, like, scored=True)


def test_an_intact_checkpoint_of_another_network_is_not_taken_for_a_damaged_one(three):
    folder, _ = three("plain")
    with (
        Checkpoints(folder, 2) as checkpoints,
        pytest.raises(ValueError, match=r"another network or optimizer.*opt_state") as caught,
    ):
        checkpoints.resume(make_problem("pddm", "sgd", 0.01).state)
    assert not isinstance(caught.value, Damaged)
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"]


def test_a_checkpoint_of_a_run_without_records_comes_back(three, capfd):
    folder, saved = three("plain")
    shutil.rmtree(folder / "3" / "record")
    overview = folder / "3" / "_CHECKPOINT_METADATA"
    told = json.loads(overview.read_text())
    del told["item_handlers"]["record"]
    overview.write_text(json.dumps(told))
    resumed = resume(folder)
    jax.tree.map(np.testing.assert_array_equal, resumed.state, saved[3])
    assert resumed.about is None
    assert "has no digests" in capfd.readouterr().err


def test_a_checkpoint_says_what_the_run_was_about(three):
    assert resume(three("plain")[0]).about == {"rows": [3]}


def test_sigterm_is_noted_and_ends_the_block_with_status_0_and_the_old_handler(tmp_path):
    handler, state = signal.getsignal(signal.SIGTERM), make_problem().state

    def stopped():
        with Checkpoints(tmp_path, max_to_keep=1) as checkpoints:
            assert not checkpoints.preempted(1)
            signal.raise_signal(signal.SIGTERM)
            assert checkpoints.preempted(2)
            checkpoints.save(2, state)

    with pytest.raises(Preempted) as caught:
        stopped()
    assert caught.value.code == 0
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def test_an_error_in_the_block_is_not_hidden_by_sigterm(tmp_path):
    def failed():
        with Checkpoints(tmp_path, max_to_keep=1):
            signal.raise_signal(signal.SIGTERM)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        failed()


# ----------------------------------------------------------------------------------------------- files


def test_a_file_is_replaced_whole_and_its_folder_is_made(tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "höher")
    write_text(path, "second")
    assert path.read_bytes() == b"second"
    write_json(path.with_suffix(".json"), {"name": "Ä", "numbers": [1, 2.5, None]})
    text = path.with_suffix(".json").read_text(encoding="utf-8")
    assert json.loads(text) == {"name": "Ä", "numbers": [1, 2.5, None]}
    assert text.endswith("}\n")
    assert "Ä" in text
    assert sorted(p.name for p in path.parent.iterdir()) == ["file.json", "file.txt"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def interrupted():
        with replacing(path) as part:
            part.write_text("half")
            assert path.read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(("number", "word"), [(28, "no space left"), (122, "no space"), (30, "read-only")])
def test_what_cannot_be_written_is_named_in_one_line(number, word, tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def full(*_):
        raise OSError(number, "it is so")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten, match=word) as caught:
        write_text(path, "new")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": [-float("inf")]}, object()])
def test_what_json_cannot_hold_is_not_written(value, tmp_path):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "file.json", value)
    assert not [*tmp_path.iterdir()]


# ---------------------------------------------------------------------------------------------- writer


def write(workdir, start, steps, writes=True):
    """The rows of a run that starts at a step and writes some."""
    with Writer(workdir, start, 10, writes) as writer:
        for step in steps:
            writer.row(step, {"loss": 1 / step})
            writer.progress(step)
        return writer.rows


def steps_in(workdir):
    return [row["step"] for row in read_rows(workdir / "metrics.jsonl")]


def test_rows_are_json_by_step_and_said_where_no_progress_bar_is(tmp_path, capsys):
    write(tmp_path, 0, [1, 2])
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 0.5)]
    assert 0 <= rows[0]["seconds"] <= rows[1]["seconds"]
    assert "step 2  loss 0.5" in capsys.readouterr().err


def test_compilation_is_announced_once_in_a_line_where_no_progress_bar_is(tmp_path, capsys):
    with Writer(tmp_path, 0, 10, True) as writer:
        assert capsys.readouterr().err == "compiling ...\n"
        writer.progress(1)
        writer.row(1, {"loss": 1.0})
    assert capsys.readouterr().err == "step 1  loss 1\n"


@pytest.mark.parametrize(("start", "steps", "writes"), [(10, 10, True), (0, 10, False)])
def test_compilation_is_announced_by_one_process_that_has_a_step_to_make(
    start, steps, writes, tmp_path, capsys
):
    with Writer(tmp_path, start, steps, writes):
        assert capsys.readouterr().err == ""


def test_a_progress_bar_shows_the_compilation_until_the_first_step_is_done(tmp_path, monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(writer_module, "tqdm", partial(tqdm, file=screen, mininterval=0))
    with Writer(tmp_path, 3, 10, True) as writer:
        assert screen.getvalue().count("compiling ...") == 1
        shown = len(screen.getvalue())
        for step in (4, 5):
            writer.progress(step)
    after = screen.getvalue()[shown:]
    assert "compiling" not in after
    assert "4/10" in after and "5/10" in after  # noqa: PT018


def events_in(path):
    """Events of a file of TensorBoard's: each its length in 8 bytes, a checksum in 4, itself, another."""
    content, events = path.read_bytes(), []
    while content:
        end = 12 + int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12:end]))
        content = content[end + 4 :]
    return events


def test_tensorboard_reads_the_rows_and_where_they_begin_anew(tmp_path):
    write(tmp_path, 0, [1, 4])
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    version, start, *rows = events_in(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (1, SessionLog.START)
    assert [(row.step, row.summary.value[0].tag, row.summary.value[0].simple_value) for row in rows] == [
        (1, "loss", 1.0),
        (4, "loss", 0.25),
    ]
    path.unlink()
    write(tmp_path, 2, [3])
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert [event.step for event in events_in(path)] == [0, 3, 3]


def test_rows_beyond_the_start_are_dropped(tmp_path):
    write(tmp_path, 0, [1, 2, 3, 4])
    write(tmp_path, 2, [5])
    assert steps_in(tmp_path) == [1, 2, 5]


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    write(tmp_path, 0, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 3, "los')
    assert steps_in(tmp_path) == [1, 2]
    write(tmp_path, 3, [4])
    assert steps_in(tmp_path) == [1, 2, 4]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"step": 1, "seconds": 1}\n{"st\n{"step": 3, "seconds": 1}\n', "line 2 is no row"),
        (b'{"seconds": 1}\n', "line 1 is no row"),
        (b'{"step": true, "seconds": 1}\n', "line 1 is no row"),
        (b'{"step": 1.5, "seconds": 1}\n', "line 1 is no row"),
        (b'{"step": 1}\n', "line 1 is no row"),
        (b"[1]\n", "line 1 is no row"),
        (b"\n", "line 1 is no row"),
        (b"\xff\n", "line 1 is no row"),
        (
            b'{"step": 5, "seconds": 1}\n{"step": 4, "seconds": 1}\n',
            "line 2 is of step 4, after",
        ),
    ],
)
def test_damaged_rows_are_named_unless_the_checkpoint_knows_them(content, told, tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"metrics\.jsonl is damaged: {told}.*; correct or delete"):
        read_rows(path)
    with pytest.raises(ValueError, match="is damaged"):
        write(tmp_path, 5, [])
    rows = [{"step": 1, "loss": float("nan"), "seconds": 1.5}, {"step": 5, "seconds": 2}]
    known = known_rows({"rows": rows})
    with Writer(tmp_path, 5, 10, True, known):
        assert told in capsys.readouterr().err
    assert steps_in(tmp_path) == [1, 5]
    path.write_bytes(path.read_bytes().replace(b"1.5", b"1.7"))
    with Writer(tmp_path, 5, 10, True, known):
        assert "differs from what the checkpoint of step 5 knows" in capsys.readouterr().err
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + content)
    write(tmp_path, 0, [])  # what begins anew needs none of them
    assert steps_in(tmp_path) == []


def test_rows_with_ends_of_lines_of_windows_are_rows(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "seconds": 1}\r\n')
    assert steps_in(tmp_path) == [1]


def test_the_clock_goes_on_after_a_restart(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": 50.0}\n{"step": 9, "seconds": 900.0}\n')
    assert 50 <= write(tmp_path, 1, [2])[-1]["seconds"] < 60
    assert 50 <= read_rows(tmp_path / "metrics.jsonl")[-1]["seconds"] < 60


def test_other_processes_write_nothing(tmp_path):
    assert [row["step"] for row in write(tmp_path, 0, [1, 2], writes=False)] == [1, 2]
    assert not [*tmp_path.iterdir()]


def test_no_file_is_no_rows(tmp_path):
    assert read_rows(tmp_path / "metrics.jsonl") == []


def test_orbax_collects_no_io_metrics_whose_memory_is_never_freed(tmp_path, monkeypatch):
    tensorstore_utils = pytest.importorskip("orbax.checkpoint._src.serialization.tensorstore_utils")
    assert hasattr(tensorstore_utils, "get_tensorstore_raw_bytes")
    calls = []
    collect = tensorstore_utils.ts.experimental_collect_matching_metrics
    monkeypatch.setattr(
        tensorstore_utils.ts,
        "experimental_collect_matching_metrics",
        lambda *given: calls.append(given) or collect(*given),
    )
    problem = make_problem("pddm", "adamw", 0.01)
    state, _ = problem.step(problem.state, problem.batch)
    with Checkpoints(tmp_path, 2) as checkpoints:
        checkpoints.save(1, state)
    with Checkpoints(tmp_path, 2) as checkpoints:
        assert checkpoints.resume(state) is not None
    assert not calls
