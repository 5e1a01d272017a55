"""Images given from Python: arrays, PIL images, paths, or a folder of class folders."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageOps

from pddm_jax.data.images import Images, ImageSequence, subset
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.quality import warn
from pddm_jax.data.storage.decode import Encoded, Files, check, decode
from pddm_jax.data.transforms import Pixels
from pddm_jax.system.regular import check_regular

ARRAYS, PATHS = "arrays", "paths"
"""Values of `data.name` for images from Python: of one size in memory, or of any size."""


@dataclass(frozen=True)
class Decoded:
    """Images in memory that may differ in size."""

    arrays: Sequence[UInt8[np.ndarray, "h w c"]]

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> UInt8[np.ndarray, "h w c"]:
        """The image of a number."""
        return self.arrays[index]

    def take(self, indices: Int[np.ndarray, " m"]) -> "Decoded":
        """Some of the images, in the order of these numbers."""
        return Decoded([self.arrays[index] for index in indices.tolist()])


def as_images(name: str, images: Any) -> ImageSequence:
    """A sequence of images from whatever holds them.

    Args:
        name: of the argument, for errors.
        images: an array uint8 [n, h, w] or [n, h, w, c], c 1 or 3; or a sequence of arrays [h, w] or
            [h, w, c], of PIL images, or of paths, each of any size.

    Raises:
        ValueError: it is something else, which is named; or an image cannot be converted.
        OSError: a path does not exist.
    """
    if isinstance(images, str | Path):
        todo = "the paths of its images" if Path(images).expanduser().is_dir() else "[path]"
        raise ValueError(
            f"{name} must be an array or a sequence, got the path {str(images)!r}: give {todo}"
        )
    if hasattr(images, "__array__") and not isinstance(images, Image.Image):
        return _stacked(name, np.asarray(images))
    if not isinstance(images, Sequence):
        todo = ": give [image]" if isinstance(images, Image.Image) else ""
        raise ValueError(
            f"{name} must be an array or a sequence of images, got {type(images).__name__}{todo}"
        )
    if images and all(isinstance(image, str | Path) for image in images):
        paths = [Path(image).expanduser() for image in images]
        for number, path in enumerate(paths):
            _check_file(f"{name}[{number}]", path)
        return Encoded(Files(paths))
    return Decoded([_one(f"{name}[{number}]", image) for number, image in enumerate(images)])


def _check_file(name: str, path: Path) -> None:
    if path.is_dir():
        raise ValueError(f"{name} is the folder {path}: give the paths of its images")
    try:
        check_regular(path, None)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: there is no file {path}") from None


def _stacked(name: str, images: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    if images.ndim == 3 and images.shape[-1] in (1, 3):
        raise ValueError(
            f"{name} must have shape [n, h, w] or [n, h, w, c], got {[*images.shape]}, which is one image "
            "[h, w, c]: give it in a list"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        raise ValueError(
            f"{name} must have shape [n, h, w] or [n, h, w, c] with 1 or 3 channels, got {[*images.shape]}"
        )
    _check_bytes(name, images)
    return images


def _one(name: str, image: Any) -> UInt8[np.ndarray, "h w c"]:
    if isinstance(image, Image.Image):
        return _of_pil(name, image)
    if not hasattr(image, "__array__"):
        mixed = "; do not mix paths and images" if isinstance(image, str | Path) else ""
        raise ValueError(f"{name} must be an array or a PIL image, got {type(image).__name__}{mixed}")
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"{name} must have shape [h, w] or [h, w, c] with 1 or 3 channels, got {[*array.shape]}"
        )
    _check_bytes(name, array)
    return array


def _check_bytes(name: str, images: np.ndarray) -> None:
    if images.dtype != np.uint8:
        raise ValueError(f"{name} must be bytes (uint8, 0 to 255), got {images.dtype}")


def _of_pil(name: str, image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """RGB pixels as the decoder makes them of the same image in a file: turned by EXIF, laid on white."""
    buffer = io.BytesIO()
    try:
        turned = ImageOps.exif_transpose(image)
        turned.save(buffer, "TIFF" if image.mode in ("CMYK", "F", "YCbCr", "LAB") else "PNG")
        return decode(buffer.getvalue())
    except (ValueError, OSError) as error:
        raise ValueError(f"{name} cannot be converted to RGB: {error}") from error


def train_and_test(
    images: Any, labels: Any, test_images: Any = None, test_labels: Any = None
) -> tuple[Images, Images | None]:
    """Labelled images for training and for test; no test images: None.

    A folder with class folders in train/ and test/ gives only its train part as `images`, and only its test
    part as `test_images`. The test part of the folder `images` is used if `test_images` is None, unless all
    of its classes have one image.

    Args:
        images: as for `as_images`; or the path of a folder of class folders, without labels.
        labels: as for `labelled`; None for a folder.
        test_images: as `images`.
        test_labels: as `labels`.

    Raises:
        ValueError: as `labelled`.
        FileNotFoundError: a path does not exist.
    """
    train, test = _folder_parts("", images) if labels is None else (labelled(images, labels), None)
    if test_images is None:
        return train, test if test and np.bincount(test.labels).max() > 1 else None
    if test_labels is None:
        whole, part = _folder_parts("test_", test_images)
        return train, part or whole
    return train, labelled(test_images, test_labels, "test_")


def _folder_parts(prefix: str, root: Any) -> tuple[Images, Images | None]:
    """The train and the test part of a folder; all images and None if it lacks one of them."""
    if not isinstance(root, str | Path):
        raise ValueError(
            f"{prefix}labels must be given with {prefix}images, unless {prefix}images is a folder of class "
            "folders"
        )
    source = find_folder(root)
    warn(source.notes)
    data = Images(source.images, source.labels, source.class_names)
    if source.in_train is None or len({*source.in_train.tolist()}) < 2:
        return _readable(data), None
    train, test = (
        _numbered(subset(data, np.flatnonzero(part))) for part in (source.in_train, ~source.in_train)
    )
    return _readable(train), _readable(test)


def _numbered(data: Images) -> Images:
    """The images with classes numbered from 0, in the same order."""
    labels, numbered = np.unique(data.labels, return_inverse=True)
    names = {number: data.class_names[label] for number, label in enumerate(labels.tolist())}
    return Images(data.images, numbered.astype(np.int32), names)


def labelled(images: Any, labels: Any, prefix: str = "") -> Images:
    """Labelled images; classes are numbered in the order of their sorted names.

    Args:
        images: as for `as_images`.
        labels: a label for each image, all integers or all strings.
        prefix: of the names of both arguments, for errors.

    Raises:
        ValueError: images and labels do not fit each other, or an image cannot be read.
        FileNotFoundError: a path does not exist.
    """
    name = f"{prefix}images"
    if isinstance(images, str | Path) and Path(images).expanduser().is_dir():
        raise ValueError(
            f"{name} is the folder {images}, and its subfolders are the classes: give no {prefix}labels"
        )
    sequence = _of_equal_channels(as_images(name, images))
    if not len(sequence):
        raise ValueError(f"{name} must not be empty")
    given = _as_list(f"{prefix}labels", labels)
    if len(given) != len(sequence):
        raise ValueError(
            f"{prefix}labels must be one for each of the {len(sequence)} {name}, got {len(given)}"
        )
    classes = sorted({*given})
    number = {of: label for label, of in enumerate(classes)}
    numbered = np.array([number[of] for of in given], np.int32)
    return _readable(Images(sequence, numbered, {number[of]: str(of) for of in classes}))


def _of_equal_channels(images: ImageSequence) -> ImageSequence:
    """Images in memory, the grey ones as RGB where others are."""
    if not isinstance(images, Decoded) or len({image.shape[-1] for image in images.arrays}) < 2:
        return images
    return Decoded([np.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x for x in images.arrays])


def _as_list(name: str, labels: Any) -> list[Any]:
    if hasattr(labels, "__array__"):
        labels = np.asarray(labels).tolist()
    if not isinstance(labels, Iterable) or isinstance(labels, str | bytes):
        raise ValueError(
            f"{name} must be a sequence of a label for each image, got {type(labels).__name__}"
        )
    given = [label.item() if isinstance(label, np.generic) else label for label in labels]
    kinds = {type(label) for label in given}
    if kinds - {int} and kinds - {str}:
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(f"{name} must be all integers or all strings, got {names}")
    return given


def _readable(images: Images) -> Images:
    """The same images, once all of them could be decoded."""
    errors = check(images.images) if isinstance(images.images, Encoded) else {}
    if errors:
        first = "; ".join(str(error) for error in [*errors.values()][:3])
        raise ValueError(f"{len(errors)} of {len(images.labels)} images cannot be read: {first}")
    return images


def fitted(
    test: Callable[[Pixels], Pixels], shape: tuple[int, ...], image: Pixels
) -> UInt8[np.ndarray, "h w c"]:
    """An image transformed for test, with the height, width and channels of a network's images.

    Channels are converted before the transform; what it leaves at another size is cropped to the aspect
    ratio in its middle and resized.
    """
    height, width, channels = shape
    if image.shape[-1] != channels:
        grey = channels == 1
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if grey else np.repeat(image, 3, axis=-1)
    image = test(image)
    if image.shape[:2] == (height, width):
        return image
    h, w = image.shape[:2]
    scale = min(h / height, w / width)
    inner_h, inner_w = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (h - inner_h) // 2, (w - inner_w) // 2
    how = cv2.INTER_AREA if inner_h > 2 * height else cv2.INTER_LINEAR
    part = cv2.resize(image[top : top + inner_h, left : left + inner_w], (width, height), interpolation=how)
    return part.reshape(shape)
