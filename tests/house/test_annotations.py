"""The annotated shapes and types hold when every public function is really called."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

CALLS = r"""
import jaxtyping
with jaxtyping.install_import_hook("pddm_jax", "beartype.beartype"):
    import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
    import pddm_jax
    import pddm_jax.losses.objectives
    from pddm_jax.data import PKSampler, make_transform, ordered_batches, train_batches
    from pddm_jax.data.closed_set import split_images_in_half
    from pddm_jax.data.images import Images, split_half
    from pddm_jax.networks import EmbeddingNetwork, make_network
    from pddm_jax.numerics import masked_mean
    from pddm_jax.sharding import data_mesh
    from pddm_jax.training.state import init_state
    from pddm_jax.training.step import make_embed, make_train_step
    from pddm_jax.training.optimizer import make_optimizer
    from pddm_jax.transfer import class_means, classification, descriptions, hierarchy, linear_probe
    from pddm_jax.transfer import knn, zero_shot, zero_shot_metrics
import sys
from pathlib import Path

class Flat(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(5)(images.reshape(len(images), -1))

x = jax.random.normal(jax.random.key(0), (10, 6))
labels = np.arange(10) // 2
unit = pddm_jax.PDDM(hidden=5, joint=7)
params = unit.init(jax.random.key(1), x, x)["params"]
assert pddm_jax.pair_scores(params, x, x).shape == (10,)
assert pddm_jax.score_matrix(params, x, x[:3]).shape == (10, 3)
scores = pddm_jax.score_matrix(params, x, dtype="bfloat16")
for per, slots in (("batch", 1), ("anchor", 10), ("positive", 45)):
    mined = jax.eval_shape(lambda: pddm_jax.mine_quadruplets(scores, labels, per))
    assert mined.valid.shape == (slots,)
    mined = jax.eval_shape(lambda: pddm_jax.mine_quadruplets_fused(params, x, labels, per))
    assert jax.eval_shape(pddm_jax.double_header_hinge, params, x, mined).shape == ()
for loss in ("contrastive_loss", "triplet_loss", "lifted_structure_loss", "multi_similarity_loss"):
    assert jax.eval_shape(lambda: getattr(pddm_jax, loss)(np.asarray(x), labels)).shape == ()
score_fn = jax.tree_util.Partial(pddm_jax.score_matrix, params)
assert pddm_jax.nearest(x, x, 2, score_fn)[1].shape == (10, 2)
assert list(pddm_jax.recall_at_k(x, labels, (1, 2), x[:4], labels[:4])) == [1, 2]
assert 0 <= pddm_jax.map_at_r(x, labels) <= 1 and 0 <= pddm_jax.r_precision(x, labels) <= 1
assert 0 <= pddm_jax.nmi(np.asarray(x), labels) <= 1

images = np.zeros((12, 16, 16, 1), np.uint8)
split = split_half(Images(images, np.arange(12) // 2, dict.fromkeys(range(6), "")), seed=0)
assert len(split_images_in_half(split.train, seed=0).test.labels) == 3
sampler = PKSampler(split.train.labels, 3, 2, range(2), seed=0)
transform = make_transform("shift", None, 1, 0.5, True, 1.0, 0.0)
batch = next(train_batches(split.train, sampler, transform, seed=0))
jax.eval_shape(make_network("small_cnn", 6).init, jax.random.key(0), images)
network, mesh = EmbeddingNetwork(Flat(), 6), data_mesh()
optimizer = make_optimizer("adamw", 0.1, 0.1, "cosine", 1.0, 1, 2.0, 1.0, steps=2)
state = init_state(network, unit, optimizer, (16, 16, 1), 0, mesh)
for name in pddm_jax.losses.objectives.OBJECTIVES:
    loss, _ = pddm_jax.losses.objectives.make_objective(name, pairs=5)
    learned = {"unit": params, "classifier": {"kernel": jnp.ones((6, 5))}}
    assert jax.eval_shape(loss, learned, x, jnp.asarray(labels))[0].shape == ()
loss, _ = pddm_jax.losses.objectives.make_objective("pddm", pairs=3)
state, _ = make_train_step(network, loss, optimizer, mesh)(state, batch)
batches = ordered_batches(images, transform, 8)
assert make_embed(network, mesh)(state, batches).shape == (16, 6)

y = np.arange(10) // 2 * 3
means = class_means.class_means([(np.asarray(x), y)]).add(np.asarray(x[:1]), y[:1])
assert means.subset(np.array([0, 6])).centroids().shape == (2, 6)
ranked = classification.nearest_classes(np.asarray(x), means, 2, score_fn)
assert classification.top_k_accuracy(ranked, y, [1, 2])[2] <= 1
assert len(classification.per_class_accuracy(ranked, y)[1]) == 5
assert knn.knn_classes(np.asarray(x), np.asarray(x), y, k=1).tolist() == y.tolist()
assert linear_probe.fit(np.asarray(x), y, 1e-3, 2).top_classes(x, 2).shape == (10, 2)
words = descriptions.word_descriptions(["A B", "A C", "B D", "C D", "E"])
of_x = np.asarray(x), labels, words
for way, given in (("conse", (2, 0.5)), ("ranking", (0.1, 0.1, 2, 0)), ("ridge", (0.1,))):
    semantic_map = getattr(zero_shot, way)(*of_x, *given)
    placed = zero_shot_metrics.ranks(semantic_map, np.asarray(x), labels, words)
    assert zero_shot_metrics.hit_at_k(placed, (1, 5))[5] == 1
    assert zero_shot_metrics.top_classes(semantic_map, np.asarray(x), words, 2).shape == (10, 2)
assert zero_shot_metrics.harmonic_mean(0.5, 0.5) == 0.5

root = Path(sys.argv[1])
(root / "is_a").write_text("top a\ntop b\n")
above = hierarchy.read_hierarchy(root / "is_a", ["a", "b"])
assert hierarchy.hierarchical_accuracy(above, np.array([0, 1]), np.array([0, 0])) == 0.5

try:
    masked_mean(jnp.ones(3), jnp.ones(4, bool))
except jaxtyping.TypeCheckError:
    print("checked")
"""


@pytest.mark.long
def test_annotations_hold_where_they_are_checked(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", CALLS, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "checked"
