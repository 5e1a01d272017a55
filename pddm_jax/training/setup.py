"""The parts of a training run: its data, initial state, batches and train step; the embedding of images."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from pddm_jax import data
from pddm_jax.checks import as_labels
from pddm_jax.data import Images
from pddm_jax.losses.objectives import Logs, has_classifier
from pddm_jax.sharding import round_up_to_devices
from pddm_jax.training import warm_start
from pddm_jax.training.recipe import Recipe
from pddm_jax.training.state import TrainState, init_state
from pddm_jax.training.step import Diverged, make_embed, make_train_step
from pddm_jax.types import Batch

EMBED = 128
"""Images in a batch to embed, over all devices; rounded up to a multiple of the number of devices."""


@dataclass(frozen=True)
class Training:
    """The config and the data of a run; makes its initial state, batches and train step.

    Attributes:
        config: the config of the run.
        recipe: the objective, network, optimizer and transform that the config describes.
        images: training images; a label is the column of its class in the classifier.
        evaluated: images that are evaluated during training; None: no evaluation.
        train_sha256: digest of the training data, including validation classes; a run resumes only if it
            is unchanged.
        mesh: a mesh over all devices.
    """

    config: FrozenConfigDict
    recipe: Recipe
    images: Images
    evaluated: Images | None
    train_sha256: str
    mesh: Mesh

    def __post_init__(self) -> None:
        """Convert the labels to int32, by `as_labels`."""
        labels = np.asarray(as_labels("labels", self.images.labels, len(self.images.labels)))
        object.__setattr__(self, "images", self.images._replace(labels=labels))

    @property
    def steps(self) -> int:
        """The number of steps of the run."""
        return int(self.config.train.steps)

    @property
    def validates(self) -> bool:
        """Whether the evaluated images are of validation classes, which select the best checkpoint."""
        return self.evaluated is not None and bool(self.config.data.val_class_fraction)

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of an input image of the network: height, width, channels."""
        return self.recipe.transform.test(self.images.images[0]).shape

    @property
    def classes(self) -> int:
        """Number of classes of the classifier; 0 if the objective has no classifier."""
        return int(self.images.labels.max()) + 1 if has_classifier(self.recipe.objective) else 0

    @cached_property
    def train_step(self) -> Callable[[TrainState, Batch], tuple[TrainState, Logs]]:
        """The jitted train step."""
        return make_train_step(self.recipe.network, self.recipe.loss, self.recipe.optimizer, self.mesh)

    def fresh_state(self) -> TrainState:
        """A randomly initialized state."""
        modules = self.recipe.network, self.recipe.unit, self.recipe.optimizer
        return init_state(*modules, self.image_shape, self.config.seed, self.mesh, self.classes)

    def pretrained(self, state: TrainState) -> TrainState:
        """The state with the weights of `network.pretrained`, or unchanged if that is not set."""
        if not self.config.network.pretrained:
            return state
        return warm_start.with_weights(state, self.config.network, self.image_shape, self.mesh)

    def batches(self, start: int) -> Generator[Batch]:
        """The batches that follow step `start`: of each, the share of this process."""
        fields = self.config.data
        sampler = self._sampler(jax.process_index(), jax.process_count()).since(start)
        given = self.images, sampler, self.recipe.transform, self.config.seed
        return data.train_batches(*given, fields.workers)

    def whole_batch(self, step: int) -> Batch:
        """The global batch of a step: the shares of all processes together."""
        sampler = self._sampler(0, 1).since(step - 1)
        with closing(
            data.train_batches(self.images, sampler, self.recipe.transform, self.config.seed)
        ) as batches:
            return next(batches)

    def _sampler(self, process: int, processes: int) -> data.PKSampler:
        p, k = self.config.data.classes_per_batch, self.config.data.images_per_class
        return data.PKSampler(
            self.images.labels, p, k, range(self.steps), self.config.seed, process, processes
        )


class Embedder:
    """Embeds images; caches the latest embeddings of the images that are evaluated during training."""

    def __init__(self, training: Training) -> None:
        self._training = training
        self._forward = make_embed(training.recipe.network, training.mesh)
        self._kept: tuple[int, np.ndarray] | None = None

    def __call__(self, state: TrainState, images: Images) -> np.ndarray:
        """The embeddings [n, d] of images.

        Raises:
            Diverged: some embeddings are not finite.
        """
        training, step = self._training, int(state.step)
        size, workers = round_up_to_devices(EMBED, training.mesh), training.config.data.workers
        place = jax.process_index(), jax.process_count()
        batches = data.ordered_batches(images.images, training.recipe.transform, size, workers, *place)
        embeddings = self._forward(state, batches)[: len(images.labels)]
        wrong = int((~np.isfinite(embeddings).all(1)).sum())
        if wrong:
            raise Diverged(step, {f"embeddings of {wrong} of {len(embeddings)} images": float("nan")})
        return embeddings

    def evaluated(self, state: TrainState) -> np.ndarray:
        """The embeddings of the evaluated images; a second call at the same step returns the same array.

        Raises:
            Diverged: some embeddings are not finite.
        """
        images, step = self._training.evaluated, int(state.step)
        assert images is not None
        if self._kept is None or self._kept[0] != step:
            self._kept = step, self(state, images)
        return self._kept[1]
