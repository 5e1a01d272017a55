"""A train step whose backbone takes a batch in two parts on eight devices; as a program, on all there are.

python -m tests.helpers.microbatches
"""

import math
import re

import flax.linen as nn
import jax
import numpy as np

from benchmarks.lib.hlo import RECEIVED, parse
from pddm_jax import PDDM
from pddm_jax.losses.objectives import make_objective
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.networks.small_cnn import SmallCNN
from pddm_jax.sharding import data_mesh, global_batches, merge_microbatches, replicated, split_microbatches
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.state import init_state
from pddm_jax.training.step import make_train_step
from pddm_jax.types import Batch

B, SIDE, WIDTH = 48, 16, 4
PARAMETERS = {"small": (SIDE // 2) ** 2 * 8 * WIDTH, "normed": 3 * 3 * 3 * 8}
"""Of the greatest kernel: the head's, the convolution's."""


class Normed(nn.Module):
    """A backbone with statistics of a batch."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(8, (3, 3), use_bias=False)(images)
        return nn.BatchNorm(use_running_average=not train)(x).mean((1, 2))


class Step:
    """The trainer's, compiled for a mesh, and what it is called with."""

    def __init__(self, backbone, parts, mesh, images):
        self.network = EmbeddingNetwork(backbone, WIDTH, microbatches=parts)
        loss, _ = make_objective("contrastive")
        optimizer = make_optimizer("sgd", 0.1, 0.0, "constant", 1e9, 0, 1.0, 1.0, steps=1)
        alone = data_mesh(jax.devices()[:1])
        fresh = init_state(self.network, PDDM(4, 4), optimizer, images.shape[1:], 0, alone)
        self.state = jax.device_put(fresh, replicated(mesh))
        batch = Batch(images, np.arange(B, dtype=np.int32) // 3)
        (self.batch,) = global_batches([batch], mesh)
        step = make_train_step(self.network, loss, optimizer, mesh)
        self.compiled = step.lower(self.state, self.batch).compile()

    def found(self):
        """The embeddings of the batch; the state after the step, and its logs."""
        variables = {"params": self.state.params["network"], "batch_stats": self.state.batch_stats}
        forward = jax.jit(lambda of, x: self.network.apply(of, x, train=True, mutable=["batch_stats"])[0])
        embeddings = forward(variables, self.batch.images)
        return jax.device_get((embeddings, self.compiled(self.state, self.batch)))


def check_sent(program, parameters):
    """Between devices go embeddings, labels, and sums no larger than a parameter; no images, no maps."""
    instructions = [i for of in parse(program).values() for i in of]
    sent = {(i.kind, re.sub(r"{.*?}", "", i.shape)) for i in instructions if i.kind in RECEIVED}
    sums = {shape for kind, shape in sent if kind == "all-reduce"}
    assert sent == {("all-reduce", shape) for shape in sums} | {
        ("all-gather", f"f32[{B},{WIDTH}]"),
        ("all-gather", f"s32[{B}]"),
    }, sent
    sizes = [math.prod(map(int, dims.split(","))) for dims in re.findall(r"\[([\d,]+)\]", str(sums))]
    assert max(sizes) == parameters, sums


def main():
    devices, mesh = jax.device_count(), data_mesh()
    images = np.random.default_rng(0).integers(0, 256, (B, SIDE, SIDE, 3), dtype=np.uint8)
    (batch,) = global_batches([images], mesh)
    apart = jax.jit(lambda x: split_microbatches(x, 2))(batch)
    of_devices = np.split(images, devices)
    for n, part in enumerate(apart):
        expected = np.concatenate([np.split(rows, 2)[n] for rows in of_devices])
        np.testing.assert_array_equal(part, expected)
    np.testing.assert_array_equal(jax.jit(merge_microbatches)(apart, batch), images)

    backbone = SmallCNN((8,))
    one, many = Step(backbone, 1, data_mesh(jax.devices()[:1]), images), Step(backbone, 2, mesh, images)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), many.found(), one.found()
    )
    check_sent(many.compiled.as_text(), PARAMETERS["small"])
    check_sent(Step(Normed(), 2, mesh, images).compiled.as_text(), PARAMETERS["normed"])
    print(devices)


if __name__ == "__main__":
    main()
