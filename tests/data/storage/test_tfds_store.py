"""Stores of TensorFlow Datasets."""

import pickle
import shutil

import pytest

from pddm_jax.data.layouts.cars196 import find_cars196
from pddm_jax.data.load import FINDERS
from tests.helpers.builders import (
    CARS,
    HEIGHT,
    PROTOCOLS,
    SMALL,
    WIDTH,
    assert_same_source,
    birds,
    contents,
    prepared,
    two_folders,
)


def write_store(root, name, rows, label, **extra):
    """A TensorFlow Datasets store with the features of the real one; its parts take turns."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Small(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")
            pkg_dir_path = root

            def _info(self):
                features = {
                    "image": tfds.features.Image(),
                    "label": label,
                    "bbox": tfds.features.BBoxFeature(),
                }
                extras = {key: tfds.features.Text() for key in extra}
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features | extras)
                )

            def _split_generators(self, manager):
                return {part: self._generate_examples(n) for n, part in enumerate(("train", "test"))}

            def _generate_examples(self, first):
                for n, row in enumerate(rows[first::2]):
                    left, top, right, bottom = row.box
                    box = tfds.features.BBox(top / HEIGHT, left / WIDTH, bottom / HEIGHT, right / WIDTH)
                    texts = {key: text(row) for key, text in extra.items()}
                    yield n, {"image": row.path, "label": row.label - 1, "bbox": box} | texts

    Small.name = name
    Small(data_dir=root, file_format="array_record").download_and_prepare()


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """A folder of stores, and the rows of each."""
    import tensorflow_datasets as tfds

    trees, root = tmp_path_factory.mktemp("trees"), tmp_path_factory.mktemp("stores")
    cars = two_folders(trees / "cars")
    # TensorFlow Datasets takes the corners as they are in the devkit, which counts from 1.
    devkit = [row._replace(box=(row.box[0] + 1, row.box[1] + 1, *row.box[2:])) for row in cars]
    write_store(root, "cars196", devkit, tfds.features.ClassLabel(names=[name for _, name in CARS]))
    cub = birds(trees / "cub")
    label = tfds.features.ClassLabel(num_classes=4)
    write_store(root, "caltech_birds2011", cub, label, label_name=lambda row: f"bird {row.label}")
    return root, {"cars196": cars, "cub200": cub}


@pytest.mark.filterwarnings("ignore")  # those of TensorFlow Datasets
@pytest.mark.parametrize("name", ["cars196", "cub200"])
def test_a_store_of_tensorflow_datasets_is_read(name, stores, small, tmp_path):
    root, rows = stores
    source = FINDERS[name](root)
    expected = sorted((row.path.read_bytes(), row.label, row.box) for row in rows[name])
    boxes = [*map(tuple, source.boxes.tolist())]
    assert sorted(zip(contents(source.images), source.labels.tolist(), boxes, strict=True)) == expected
    assert source.class_names[3] == {"cars196": "C", "cub200": "bird 3"}[name]
    assert contents(pickle.loads(pickle.dumps(source.images))) == contents(source.images)
    assert len(PROTOCOLS[name](source).train.labels) == SMALL[name].train.images
    prepared(name, root, tmp_path / "out")
    assert_same_source(FINDERS[name](tmp_path / "out"), source)
    assert str(root) not in (tmp_path / "out" / "pddm_records.json").read_text()


@pytest.mark.filterwarnings("ignore")
def test_a_spoilt_store_is_named(stores, tmp_path):
    shutil.copytree(stores[0] / "cars196", tmp_path / "cars196")
    (shard,) = tmp_path.glob("cars196/*/*test.array_record*")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cars196/1.0.0/test\[0\] cannot be read"):
        find_cars196(tmp_path)
    info = shard.parent / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match=rf"{shard.parent} is not a complete store in array_record format"):
        find_cars196(tmp_path)
