"""Fashion-MNIST from its four IDX files, or else from a TensorFlow Datasets store."""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from pddm_jax.data.images import Images, Split, of_classes
from pddm_jax.system.regular import LARGEST, read_bytes

NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
TRAIN_CLASSES = np.arange(0, 10, 2)
TEST_CLASSES = np.arange(1, 10, 2)
SIZES = {"train": 60_000, "t10k": 10_000}
SYSTEM_ROOT = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist


def load(root: str | None, image_size: int | None, seed: int) -> Split:
    """Training images of classes 0, 2, 4, 6, 8, and test images of the others.

    Args:
        root: folder of the IDX files `{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`, or of a
            TensorFlow Datasets store that holds fashion_mnist; None = where Debian's package
            dataset-fashion-mnist puts the files.
        image_size: side in pixels, 28 by default; other sizes are resized.
        seed: not used, since the classes are fixed.

    Raises:
        FileNotFoundError: there are neither the files nor a store.
        ValueError: a file is corrupt, truncated or of another data set.
    """
    del seed
    folder = Path(root).expanduser() if root else SYSTEM_ROOT
    has_files = any(folder.glob("*-ubyte*"))
    train, test = (
        of_classes(
            _images(*(_read_idx_set(folder, name) if has_files else _read_tfds(root, name)), image_size),
            classes,
        )
        for name, classes in (("train", TRAIN_CLASSES), ("t10k", TEST_CLASSES))
    )
    return Split(train, test, "classes 0, 2, 4, 6, 8 of the training files, the others of the test files")


def _images(images: np.ndarray, labels: np.ndarray, image_size: int | None) -> Images:
    if image_size is not None and image_size != images.shape[1]:
        size = (image_size, image_size)
        resized = (Image.fromarray(x).resize(size, Image.Resampling.BICUBIC) for x in images)
        images = np.stack([np.asarray(x) for x in resized])
    return Images(images[..., None], labels.astype(np.int32), dict(enumerate(NAMES)))


def _read_idx_set(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    count = SIZES[name]
    images = read_idx(_find(folder, f"{name}-images-idx3-ubyte"), (count, 28, 28))
    path = _find(folder, f"{name}-labels-idx1-ubyte")
    labels = read_idx(path, (count,))
    if labels.max() >= len(NAMES):
        raise ValueError(f"{path} is corrupt: found label {labels.max()}, expected 0 to 9")
    return images, labels


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder} has neither {name} nor {name}.gz")


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The unsigned bytes of an IDX file of the given shape, plain or gzipped.

    Raises:
        ValueError: the file is corrupt, truncated, too long, or of another shape.
    """
    largest = 4 + 4 * len(shape) + math.prod(shape)
    try:
        data = read_bytes(path, LARGEST)
        if path.suffix == ".gz":
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(largest + 1)  # bounds a file that inflates without end
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is corrupt or truncated: {error}") from error
    header = 4 + 4 * len(shape)
    magic = bytes([0, 0, 8, len(shape)])
    if data[:4] != magic:
        raise ValueError(
            f"{path} is not an IDX file of bytes: found {data[:4]!r} first, expected {magic!r}"
        )
    if len(data) < header:
        raise ValueError(f"{path} is truncated: it ends within its header")
    found = tuple(int(n) for n in np.frombuffer(data[4:header], ">u4"))
    if found != shape:
        raise ValueError(f"{path} has shape {found}, expected {shape}")
    if len(data) - header != np.prod(shape):
        raise ValueError(
            f"{path} is corrupt or truncated: found {len(data) - header} bytes, expected {np.prod(shape)}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _read_tfds(root: str | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds  # slow to import, and needed here only

    split = {"train": "train", "t10k": "test"}[name]
    try:
        source = tfds.data_source("fashion_mnist", split=split, data_dir=root, download=False)
    except (OSError, ValueError, KeyError, AssertionError, NotImplementedError) as error:
        raise FileNotFoundError(
            f"no Fashion-MNIST in {root or SYSTEM_ROOT}: found neither the IDX files "
            f"({name}-images-idx3-ubyte[.gz], ...) nor a TensorFlow Datasets store in array_record format; "
            "give its folder as data.root, or install Debian's package dataset-fashion-mnist"
        ) from error
    images = np.stack([example["image"][..., 0] for example in source])
    return images, np.array([example["label"] for example in source])
