"""Classification of the training classes, alone and beside another objective; runs that follow a run."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import fashion_mnist
from experiments.runner import run
from pddm_jax import PDDM
from pddm_jax.losses import softmax_loss
from pddm_jax.losses.objectives import make_objective
from pddm_jax.sharding import data_mesh
from pddm_jax.training import warm_start
from pddm_jax.training.checkpoint import Checkpoints, Preempted
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.provenance import digest
from pddm_jax.training.restore import network_of, restore_trained
from pddm_jax.training.run_files import read_config
from pddm_jax.training.state import init_state
from tests.helpers.training import NETWORK

SHAPE = (12, 12, 1)

# ------------------------------------------------------------------------------------------- the formula


@pytest.fixture(scope="module")
def problem():
    """Embeddings of unit length, the numbers of their classes, and a classifier of which one class is 0."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(7, 5)), rng.normal(size=(5, 4))
    kernel[:, 2] = 0
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return kernel, x, np.array([3, 0, 0, 1, 2, 3, 3])


def by_loops(kernel, x, classes, temperature):
    total = 0.0
    for row, own in zip(x, classes, strict=True):
        cosines = []
        for column in kernel.T:
            length = np.sqrt((column**2).sum())
            cosines.append((row * column).sum() / length / temperature if length else 0.0)
        total += np.log(sum(np.exp(c) for c in cosines)) - cosines[own]
    return total / len(x)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_the_loss_is_the_cross_entropy_of_cosines(temperature, problem):
    kernel, x, classes = problem
    found = softmax_loss(kernel, x, classes, temperature)
    np.testing.assert_allclose(found, by_loops(kernel, x, classes, temperature), rtol=1e-5)


def test_its_gradient_is_that_of_the_loops(problem):
    kernel, x, classes = problem
    found = jax.grad(softmax_loss, argnums=(0, 1))(jnp.array(kernel), jnp.array(x), classes, 0.5)
    for place, (array, gradient) in enumerate(zip((kernel, x), found, strict=True)):
        assert np.isfinite(gradient).all()
        for index in [(1, 0), (4, 3), (0, 1)]:
            step = np.zeros_like(array)
            step[index] = 1e-5
            moved = [[kernel, x] for _ in range(2)]
            moved[0][place], moved[1][place] = array + step, array - step
            up, down = (by_loops(*of, classes, 0.5) for of in moved)
            np.testing.assert_allclose(gradient[index], (up - down) / 2e-5, rtol=1e-3, atol=1e-6)


def test_what_does_not_fit_is_named(problem):
    kernel, x, classes = problem
    with pytest.raises(ValueError, match=r"embeddings must be a matrix \[n, 5\]"):
        softmax_loss(kernel, x[:, :4], classes)
    with pytest.raises(ValueError, match=r"classes must have shape \[7\]"):
        softmax_loss(kernel, x, classes[:3])
    for beyond in (classes + 1, classes - 1):
        assert np.isnan(softmax_loss(kernel, x, beyond))
    assert softmax_loss(kernel, x[:0], classes[:0]) == 0


# ----------------------------------------------------------------------------------------- the objective


def test_beside_another_objective_it_is_added(problem):
    kernel, x, classes = problem
    params = {"classifier": {"kernel": jnp.array(kernel)}}
    triplets, fields = make_objective("triplet", softmax=0.25, temperature=0.2)
    assert fields == {"margin": 0.2, "softmax": 0.25, "temperature": 0.2}
    value, logs = triplets(params, jnp.array(x), jnp.array(classes))
    alone = make_objective("triplet")[0]({}, jnp.array(x), jnp.array(classes))[0]
    np.testing.assert_allclose(value, alone + 0.25 * by_loops(kernel, x, classes, 0.2), rtol=1e-5)
    np.testing.assert_allclose(logs["loss_softmax"], by_loops(kernel, x, classes, 0.2), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("pddm", {"softmax": -1.0}, r"objective\.softmax.*-1\.0"),
        ("pddm", {"softmax": np.inf}, r"objective\.softmax.*inf"),
        ("softmax", {"softmax": 1.0}, r"objective\.softmax must be 0 with objective"),
        ("pddm", {"temperature": 0.1}, r"'pddm'.*got 'temperature'"),
        ("softmax", {"temperature": np.nan}, r"objective\.temperature.*nan"),
        ("softmax", {"temperature": 0.0}, r"objective\.temperature.*0\.0"),
    ],
)
def test_slips_are_named(name, fields, words):
    with pytest.raises(ValueError, match=words):
        make_objective(name, **fields)


# ------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def config(fashion_root):
    """Five classes, whose labels are 0, 2, 4, 6, 8."""
    config = fashion_mnist.get_config()
    config.data.update(root=str(fashion_root), image_size=SHAPE[0], images_per_class=4)
    config.network.update(embedding_dim=8, unit_dim=4)
    config.objective.name = "softmax"
    config.train.update(steps=6, eval_every=6, checkpoint_every=2, log_every=1)
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """The workdir of a run by softmax alone, and its results."""
    workdir = tmp_path_factory.mktemp("softmax") / "run"
    return workdir, run(config, workdir, "test")


def later(config, workdir, **network):
    """The config of a run that begins where another ended."""
    config = config.copy_and_resolve_references()
    config.objective.update(name="contrastive", softmax=0.5)
    config.network.update(pretrained=str(workdir), **network)
    return config


@pytest.mark.long
def test_a_run_by_softmax_learns_a_classifier_of_its_classes(finished, config):
    workdir, found = finished
    assert found["protocol"]["objective"] == {"name": "softmax", "temperature": 0.05}
    assert found["recall_at_k"]["pddm"] is None
    fields = read_config(workdir)
    assert fields["classes"] == 5
    state = restore_trained(workdir, fields, SHAPE, data_mesh()).state
    kernel = state.params["classifier"]["kernel"]
    assert kernel.shape == (8, 5)
    assert (kernel != fresh(config).params["classifier"]["kernel"]).all()
    assert digest(state) == found["params_sha256"]


@pytest.mark.long
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(finished, config, tmp_path, monkeypatch):
    def stop(checkpoints, step):
        checkpoints._stop_signal = "SIGTERM" if step == 3 else ""
        return bool(checkpoints._stop_signal)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "preempted", stop)
        with pytest.raises(Preempted):
            run(config, tmp_path / "run", "test")
    again = run(config, tmp_path / "run", "test")
    assert again["params_sha256"] == finished[1]["params_sha256"]


def fresh(config):
    fields = json.loads(config.to_json())
    optimizer = make_optimizer(**fields["optimizer"], steps=6)
    return init_state(
        network_of(fields["network"]), PDDM(4, 4), optimizer, SHAPE, 0, data_mesh(), classes=5
    )


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


@pytest.mark.long
def test_the_network_of_a_run_is_what_another_begins_with(finished, config):
    theirs = restore_trained(finished[0], read_config(finished[0]), SHAPE, data_mesh()).state
    for width, whole in ((8, True), (6, False)):
        beginning = later(config, finished[0], embedding_dim=width)
        before = fresh(beginning)
        after = warm_start.with_weights(before, beginning.network, SHAPE, data_mesh())
        assert same(after.params["network"]["backbone"], theirs.params["network"]["backbone"])
        head = {"embedding": theirs.params["network"]["embedding"]} if whole else {}
        for name, part in (before.params["network"] | head).items():
            assert name == "backbone" or same(after.params["network"][name], part)
        assert same(after.batch_stats, theirs.batch_stats if whole else before.batch_stats)
        for name in ("unit", "classifier"):
            assert same(after.params[name], before.params[name])


@pytest.mark.long
def test_a_run_tells_what_it_began_with(finished, config, tmp_path, capsys):
    found = run(later(config, finished[0]), tmp_path / "run", "test")
    told = found["protocol"]["network"]["pretrained"]
    assert told["from"] == str(finished[0])
    assert told["params_sha256"] == finished[1]["params_sha256"]
    assert told["protocol"] == json.loads(json.dumps(finished[1]["protocol"]))
    assert found["protocol"]["objective"] == {
        **{"name": "contrastive", "margin": 1.0},
        **{"softmax": 0.5, "temperature": 0.05},
    }
    assert f"weights of {finished[0]} (softmax on fashion_mnist" in capsys.readouterr().err


@pytest.mark.long
def test_weights_of_no_finished_run_and_of_another_network_are_refused(finished, config, tmp_path):
    with pytest.raises(OSError, match="holds no finished run"):
        warm_start.source_of_weights(str(tmp_path), "small_cnn", NETWORK)
    with pytest.raises(ValueError, match=r"network\.name 'small_cnn', not 'resnet50'"):
        warm_start.source_of_weights(str(finished[0]), "resnet50", NETWORK)
    with pytest.raises(ValueError, match=r"images of shape \[12, 12, 1\], not \[9, 9, 1\]"):
        warm_start.with_weights(fresh(config), later(config, finished[0]).network, (9, 9, 1), data_mesh())


def test_weights_of_a_run_that_may_have_seen_the_test_are_refused():
    protocol = {"data": "glyphs", "split": "half by seed 0", "train_sha256": "ab"}
    of_run = {"from": "runs/first", "protocol": protocol}
    warm_start.check_no_test_leakage(of_run, "glyphs", "half by seed 0", "ab")
    warm_start.check_no_test_leakage(of_run, "icons", "half by seed 1", "cd")
    for of_file in (None, {"from": "weights.pth", "sha256": "0"}):
        warm_start.check_no_test_leakage(of_file, "glyphs", "half by seed 1", "cd")
    with pytest.raises(
        ValueError, match=r"network\.pretrained: runs/first .*split of glyphs.*seed 0.*seed 1"
    ):
        warm_start.check_no_test_leakage(of_run, "glyphs", "half by seed 1", "ab")
    with pytest.raises(ValueError, match=r"network\.pretrained: runs/first was trained on other images"):
        warm_start.check_no_test_leakage(of_run, "glyphs", "half by seed 0", "cd")
