"""Runs from Python: train on images, load a run, embed images, score and search embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import numpy as np
import optax
from jaxtyping import Float, Float32, Int

from pddm_jax.checks import check_choice
from pddm_jax.data import ordered_batches
from pddm_jax.data.from_python import as_images, fitted, train_and_test
from pddm_jax.data.transforms import Transform
from pddm_jax.evaluate.retrieval import nearest
from pddm_jax.losses.objectives import OBJECTIVES, Loss
from pddm_jax.networks import EmbeddingNetwork
from pddm_jax.pddm.scoring import score_matrix
from pddm_jax.sharding import data_mesh, round_up_to_devices
from pddm_jax.system.cli import expanded
from pddm_jax.training.from_python import Given
from pddm_jax.training.own_objects import check_module, check_same_module, own_network
from pddm_jax.training.restore import restore_trained, transform_of
from pddm_jax.training.run_files import Config, read_config
from pddm_jax.training.setup import EMBED
from pddm_jax.training.state import TrainState
from pddm_jax.training.step import make_embed
from pddm_jax.training.trainer import train_or_save
from pddm_jax.types import AnyArray

BY = ("euclidean", "pddm")


@dataclass(frozen=True, eq=False)
class Run:
    """A trained network, out of the workdir of its run.

    Attributes:
        workdir: of the run.
        config: its fields, as in config.json.
        network: images [n, h, w, c] to unit-length embeddings [n, d].
        state: step, parameters ({"network", "unit"} and, for softmax, "classifier") and batch statistics.
    """

    workdir: Path
    config: Config
    network: EmbeddingNetwork
    state: TrainState

    def __repr__(self) -> str:
        network = self.config.get("python", {}).get("network") or self.config["network"]["name"]
        return f"Run({str(self.workdir)!r}, step {self.step}, {network})"

    @property
    def step(self) -> int:
        """The training step of the parameters."""
        return int(self.state.step)

    def embed(self, images: Any) -> Float32[np.ndarray, "n d"]:
        """Unit-length embeddings of images.

        An image is transformed as the test images of the run are. One of another size or number of
        channels than the run's images is first cropped to their aspect ratio and resized, converted to
        grey, or repeated over the channels.

        Args:
            images: an array uint8 [n, h, w] or [n, h, w, c] with 1 or 3 channels; or a sequence of such
                images, of PIL images, or of paths, each of any size.

        Raises:
            ValueError: the images are something else, or one cannot be read.
            OSError: a path does not exist.
        """
        sequence = as_images("images", images)
        if not len(sequence):
            return np.zeros((0, self._width), np.float32)
        size = round_up_to_devices(min(EMBED, 1 << (len(sequence) - 1).bit_length()), data_mesh())
        place = jax.process_index(), jax.process_count()
        batches = ordered_batches(sequence, self._transform, size, 0, *place)
        embeddings = self._forward(self.state, batches)[: len(sequence)]
        if not np.isfinite(embeddings).all():
            raise ValueError(f"{self.workdir}: the network gives embeddings that are not finite")
        return embeddings

    def score(
        self, x: Float[AnyArray, "n d"], y: Float[AnyArray, "m d"] | None = None
    ) -> Float32[jax.Array, "n m"]:
        """PDDM scores of all pairs of embeddings, as `pddm_jax.score_matrix`; y=None: x against itself.

        Raises:
            ValueError: the objective of the run does not train the score.
        """
        return score_matrix(self._unit, x, y)

    def nearest(
        self,
        queries: Float[AnyArray, "q d"],
        gallery: Float[AnyArray, "g d"],
        k: int,
        by: Literal["euclidean", "pddm"] = "euclidean",
    ) -> tuple[Float32[jax.Array, "q k"], Int[jax.Array, "q k"]]:
        """The k nearest gallery embeddings of each query, by distance or by PDDM score: `pddm_jax.nearest`.

        Returns:
            Negative squared distances or PDDM scores, and indices, each [q, k], best first. A query that is
            in the gallery is its own nearest neighbor.

        Raises:
            ValueError: `by` is unknown, or the objective of the run does not train the score; and as
                `pddm_jax.nearest`.
        """
        check_choice("by", by, BY)
        score_fn = jax.tree_util.Partial(score_matrix, self._unit) if by == "pddm" else None
        return nearest(queries, gallery, k, score_fn)

    @property
    def _unit(self) -> dict[str, Any]:
        name = self.config["objective"]["name"]
        own = self.config.get("python", {}).get("objective")
        if not own and not OBJECTIVES[name].learns_score:
            scores = [other for other, of in OBJECTIVES.items() if of.learns_score]
            raise ValueError(
                f"{self.workdir}: objective {name!r} does not train the PDDM score: train with one of "
                f"{', '.join(scores)}"
            )
        unit: dict[str, Any] = self.state.params["unit"]
        return unit

    @property
    def _shape(self) -> tuple[int, ...]:
        return tuple(self.config["image_shape"])

    @property
    def _width(self) -> int:
        images = jax.ShapeDtypeStruct((1, *self._shape), np.uint8)
        return int(jax.eval_shape(self.network.apply, self.state.variables, images).shape[1])

    @property
    def _transform(self) -> Transform:
        train, test = transform_of(self.config["data"])
        return Transform(train, partial(fitted, test, self._shape))

    @cached_property
    def _forward(self) -> Any:
        return make_embed(self.network, data_mesh())


def load(workdir: str | Path, network: nn.Module | None = None) -> Run:
    """A run by its workdir, at the checkpoint that it reports: the best by validation, or the last.

    Neither the optimizer nor the data set is needed, and nothing is printed. Of a run without results.json
    a damaged checkpoint is passed over: `Run.step` is the step of the one that was read.

    Args:
        workdir: of a run of any experiment, or of `pddm_jax.train`; finished, stopped or still running.
        network: for a run of `pddm_jax.train` with a module of its own: the same module.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        ValueError: the run is damaged, or was trained with another network.
    """
    path, given = _path(workdir), None
    if network is not None:
        check_module(network)
    config = read_config(path)
    if network is not None:
        check_same_module(path, config, network)
        given = own_network(config, network)
    trained = restore_trained(path, config, tuple(config["image_shape"]), data_mesh(), given, quiet=True)
    return Run(path, config, trained.network, trained.state)


def train(
    images: Any,
    labels: Any = None,
    *,
    workdir: str | Path,
    objective: str | Loss = "pddm",
    network: str | nn.Module = "small_cnn",
    optimizer: optax.GradientTransformation | None = None,
    steps: int = 500,
    seed: int = 0,
    test_images: Any = None,
    test_labels: Any = None,
    config: Mapping[str, Any] | None = None,
) -> Run:
    """Train a network on labelled images, or go on where such a run in `workdir` was stopped.

    A run equals, bit for bit, that of the command with the same fields, images and number of devices.
    A batch has `data.images_per_class` (4) images of each of `data.classes_per_batch` classes (16, or all).

    Args:
        images: an array uint8 [n, h, w] or [n, h, w, c] with 1 or 3 channels; or a sequence of arrays, PIL
            images or paths, each of any size; or, without labels, a folder of class folders: of one with
            train/ and test/, the train part. Images of one array keep their size; others are cropped and
            resized to `data.image_size` (64) pixels.
        labels: one for each image: integers or strings.
        workdir: folder of the run's files: checkpoints, metrics.jsonl, config.json.
        objective: a name (`pddm_jax.losses.objectives.OBJECTIVES`), or a function of parameters,
            embeddings [b, d] and labels [b] that returns a loss and a dict of scalars to log. The
            parameters are {"network", "unit"}; the unit is a PDDM unit.
        network: a name (`pddm_jax.networks.NETWORKS`), or a module: images [b, h, w, c] in 0 to 1 ->
            features [b, f]. The head of `network.embedding_dim` (64; 0: none) follows, and its norm is 1.
        optimizer: any transformation; None: that of the config (AdamW with a cosine schedule).
        steps: of training, counted from the first.
        seed: of weights, batches and augmentation.
        test_images: evaluated every `train.eval_every` steps, as Recall@1 and MAP@R in metrics.jsonl;
            of any size, as for `Run.embed`. None: the test part of the folder `images`, if it has one and
            `data.val_class_fraction` is not set.
        test_labels: of the test images.
        config: other fields, by name as on the command line: {"optimizer.learning_rate": 1e-3}; not those
            of data sets on disk.

    Returns:
        The run at its last step, or with `data.val_class_fraction` at the best one by validation.

    Raises:
        ValueError: an argument is wrong, or workdir holds another run or is in use.
        OSError: a path does not exist, or workdir cannot be written.
        FloatingPointError: training diverged; the last good checkpoint is kept.
        Preempted: SIGTERM or SIGHUP came, and the state is saved: a SystemExit of status 0.
    """
    path, own_module = _path(workdir), network if isinstance(network, nn.Module) else None
    given = Given(objective, network, optimizer, steps, seed, {} if config is None else config)
    if test_images is None and test_labels is not None:
        raise ValueError("test_labels are given without test_images: give both or neither")
    data, test = train_and_test(images, labels, test_images, test_labels)
    if test_images is None and given.fields.get("data.val_class_fraction"):
        test = None  # the validation classes are evaluated instead of the test part of a folder
    with given.training(path, data, test) as training:
        train_or_save(training, path)
    return load(path, own_module)


def _path(workdir: str | Path) -> Path:
    if not isinstance(workdir, str | Path) or not str(workdir).strip() or "\0" in str(workdir):
        raise ValueError(f"workdir must be the path of a folder, got {workdir!r}")
    return expanded("workdir", str(workdir))
