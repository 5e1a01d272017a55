"""Fashion-MNIST from its IDX files."""

import gzip

import numpy as np
import pytest
from PIL import Image

from pddm_jax.data import (
    fashion_mnist,
    load,
)
from tests.data.test_glyphs import assert_equal

FILES = [f"{name}-{kind}-ubyte" for name in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture
def fashion(fashion_root, tmp_path):
    """A folder of links to the four files, to be broken one by one."""
    for name in FILES:
        (tmp_path / name).symlink_to(fashion_root / name)
    return tmp_path


def replace(path, content):
    path.unlink()
    path.write_bytes(content)


def test_fashion_mnist_trains_on_even_classes_and_tests_on_odd_ones(fashion_root):
    split = load("fashion_mnist", str(fashion_root), None, 0)
    assert split.train.images.shape == (30_000, 28, 28, 1)
    assert split.test.images.shape == (200, 28, 28, 1)
    assert split.train.images.dtype == np.uint8
    assert (np.unique(split.train.labels) == [0, 2, 4, 6, 8]).all()
    assert (np.unique(split.test.labels) == [1, 3, 5, 7, 9]).all()
    assert split.train.class_names[0] == "T-shirt/top"
    assert split.test.class_names[9] == "Ankle boot"
    for part, name in ((split.train, "train"), (split.test, "t10k")):
        raw = (fashion_root / f"{name}-images-idx3-ubyte").read_bytes()[16:]
        labels = np.frombuffer((fashion_root / f"{name}-labels-idx1-ubyte").read_bytes()[8:], np.uint8)
        images = np.frombuffer(raw, np.uint8).reshape(-1, 28, 28)
        chosen = np.isin(labels, np.unique(part.labels))
        np.testing.assert_array_equal(part.images[..., 0], images[chosen])
        np.testing.assert_array_equal(part.labels, labels[chosen])


def test_gzipped_files_read_the_same(fashion, fashion_root):
    whole = fashion_mnist.load(str(fashion_root), None, 0)
    for name in FILES:
        content = (fashion / name).read_bytes()
        (fashion / name).unlink()
        (fashion / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
    assert_equal(fashion_mnist.load(str(fashion), None, 0), whole)


def test_fashion_mnist_is_resized(fashion_root):
    few = fashion_mnist.load(str(fashion_root), 28, 0).test
    images, labels, _ = fashion_mnist._images(few.images[:4, ..., 0], few.labels[:4], 12)
    assert images.shape == (4, 12, 12, 1)
    assert images.dtype == np.uint8
    expected = Image.fromarray(few.images[2, ..., 0]).resize((12, 12), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(images[2, ..., 0], np.asarray(expected))
    np.testing.assert_array_equal(labels, few.labels[:4])


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(fashion, name):
    (fashion / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        fashion_mnist.load(str(fashion), None, 0)


@pytest.mark.parametrize("keep", [0, 3, 6, 9, 15, 16, -1])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_a_truncated_file_is_named(fashion, name, keep):
    replace(fashion / name, (fashion / name).read_bytes()[:keep])
    with pytest.raises(ValueError, match=name):
        fashion_mnist.load(str(fashion), None, 0)


def spoil(content, place, value):
    return content[:place] + value + content[place + len(value) :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: spoil(content, 2, b"\x0d"), "not an IDX file"),
        (lambda content: spoil(content, 3, b"\x02"), "not an IDX file"),
        (lambda content: b"<html>not found</html>", "not an IDX file"),
        (lambda content: spoil(content, 4, (9_999).to_bytes(4, "big")), "9999"),
        (lambda content: content + b"\0", "corrupt"),
    ],
    ids=["floats", "dimensions", "html", "count", "too long"],
)
def test_a_file_of_other_content_is_named(fashion, change, message):
    path = fashion / "t10k-labels-idx1-ubyte"
    replace(path, change(path.read_bytes()))
    with pytest.raises(ValueError, match=path.name) as caught:
        fashion_mnist.load(str(fashion), None, 0)
    assert message in str(caught.value)


def test_a_label_beyond_nine_is_named(fashion):
    path = fashion / "train-labels-idx1-ubyte"
    replace(path, spoil(path.read_bytes(), 20, b"\x0a"))
    with pytest.raises(ValueError, match=rf"{path.name}.*label 10"):
        fashion_mnist.load(str(fashion), None, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-4],
        lambda packed: packed[:5],
        lambda packed: b"",
        lambda packed: b"not gzip" + packed,
        lambda packed: spoil(
            packed, len(packed) // 2, bytes(b ^ 255 for b in packed[len(packed) // 2 :][:4])
        ),
        lambda packed: spoil(packed, len(packed) - 8, b"\0\1\2\3"),
    ],
    ids=["half", "no length", "no header", "empty", "no magic", "spoilt", "checksum"],
)
def test_a_corrupt_gzip_file_is_named(fashion, change):
    path = fashion / "t10k-images-idx3-ubyte"
    packed = gzip.compress(path.read_bytes(), compresslevel=1)
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(change(packed))
    with pytest.raises(ValueError, match=rf"{path.name}\.gz"):
        fashion_mnist.load(str(fashion), None, 0)


@pytest.mark.filterwarnings("ignore")  # those of TensorFlow Datasets, which is looked into here
def test_a_folder_without_data_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=str(tmp_path)) as caught:
        fashion_mnist.load(str(tmp_path), None, 0)
    assert "data.root" in str(caught.value)
