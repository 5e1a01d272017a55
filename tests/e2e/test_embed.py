"""The embed command: rows, resuming after a kill, refused folders, one process and two."""

import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.configs import folder
from pddm_jax import data
from pddm_jax import embed as module
from pddm_jax.data.images import Images
from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.listing import listing, read_names, write_names
from pddm_jax.data.prepare.command import prepare
from pddm_jax.embed import embed, read
from pddm_jax.networks import make_network
from pddm_jax.pddm.unit import PDDM
from pddm_jax.sharding import data_mesh
from pddm_jax.training.checkpoint import Checkpoints
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.restore import Trained, restore_trained, transform_of
from pddm_jax.training.run_files import read_config
from pddm_jax.training.state import TrainState, init_state
from tests.conftest import LIMIT, free_address

CLASSES, EACH = 6, 7


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of noisy patterns, a class each."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label in range(CLASSES):
        (root / f"class {label}").mkdir()
        for number in range(EACH):
            pixels = rng.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class {label}" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def config(photos):
    """The fields of a run on it."""
    config = folder.get_config()
    config.data.update(root=str(photos), image_size=16)
    config.network.update(embedding_dim=5, unit_dim=4)
    return json.loads(config.to_json()) | {"image_shape": [16, 16, 3]}


def fresh(config, seed):
    network = make_network("small_cnn", 5)
    optimizer = make_optimizer(**config["optimizer"], steps=config["train"]["steps"])
    return network, init_state(network, PDDM(4, 4), optimizer, (16, 16, 3), seed, data_mesh())


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    """A run's folder with checkpoints of steps 3 and 7, of the weights of these seeds."""
    workdir = tmp_path_factory.mktemp("run")
    (workdir / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with Checkpoints(workdir / "checkpoints", 2) as checkpoints:
        for step in (3, 7):
            checkpoints.save(step, fresh(config, step)[1].replace(step=np.int32(step)))
    return workdir


class Linear(nn.Module):
    """A network that compiles in no time."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(5)(images.reshape(len(images), -1) / 255)


@pytest.fixture
def linear(monkeypatch):
    """Replaces the network of the run."""
    network = Linear()
    params = jax.jit(network.init)(jax.random.key(0), np.zeros((1, 16, 16, 3)))["params"]
    state = TrainState(np.int32(7), {"network": params}, {}, None)
    monkeypatch.setattr(module, "restore_trained", lambda *_: Trained(network, state))
    return lambda images: network.apply({"params": params}, images)


def inputs(config, photos):
    """The inputs of the network in the order of folders and files, and the labels."""
    transform, paths = transform_of(config["data"]), sorted(photos.glob("*/*.png"))
    images = [transform.test(np.asarray(Image.open(path))) for path in paths]
    return np.stack(images), np.array([int(path.parent.name.split()[1]) for path in paths])


NAMES = [f"class {label}/{number}.png" for label in range(CLASSES) for number in range(EACH)]


def in_test(photos):
    """Which of the images are of test classes."""
    test = data.load("folder", str(photos), None, 0).test
    return np.isin(np.repeat(np.arange(CLASSES), EACH), np.unique(test.labels))


@pytest.fixture
def expected(linear, config, photos):
    """By the linear network, all at once."""
    images, labels = inputs(config, photos)
    return np.array(linear(images)), labels


def assert_stored(stored, expected):
    embeddings, labels, about = stored
    assert isinstance(embeddings, np.memmap)
    np.testing.assert_allclose(embeddings, expected[0], atol=1e-5)
    np.testing.assert_array_equal(labels, expected[1])
    assert about["rows"] == {"train": 3 * EACH, "test": 3 * EACH}
    assert about["step"] == 7
    assert len(about["params_sha256"]) == 64
    assert about["classes"] == {str(n): f"class {n}" for n in range(CLASSES)}
    assert about["config"]["network"]["embedding_dim"] == 5
    assert {"jax", "python", "device"} <= {*about["versions"]}


def test_all_images_are_embedded_in_their_order(workdir, expected, tmp_path):
    assert_stored(embed(workdir, tmp_path / "out", batch=8), expected)
    assert_stored(read(tmp_path / "out"), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("embeddings.npy", "labels.npy", "parts.npy", "names.txt", "about.json")
    }


def test_each_row_has_its_file_and_part(workdir, expected, photos, tmp_path):
    embed(workdir, tmp_path / "out", batch=8)
    assert (tmp_path / "out" / "names.txt").read_text(encoding="utf-8").splitlines() == NAMES
    assert read_names(tmp_path / "out" / "names.txt") == NAMES
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "parts.npy"), in_test(photos))


def test_one_part_alone(workdir, expected, photos, tmp_path):
    stored = embed(workdir, tmp_path / "out", parts=["test"], batch=100)
    chosen = in_test(photos)
    np.testing.assert_allclose(stored.embeddings, expected[0][chosen], atol=1e-5)
    np.testing.assert_array_equal(stored.labels, expected[1][chosen])
    assert read_names(tmp_path / "out" / "names.txt") == [NAMES[n] for n in np.flatnonzero(chosen)]


def test_prepared_images_have_the_same_rows(workdir, expected, photos, tmp_path):
    prepare("folder", find_folder(photos), photos, tmp_path / "records", 5, skip=False)
    stored = embed(workdir, tmp_path / "out", root=str(tmp_path / "records"), batch=100)
    np.testing.assert_allclose(stored.embeddings, expected[0], atol=1e-5)
    assert read_names(tmp_path / "out" / "names.txt") == NAMES


def test_what_an_earlier_version_wrote_is_read_but_not_taken_for_the_same(linear, workdir, tmp_path):
    out = tmp_path / "out"
    embed(workdir, out)
    about = json.loads((out / "about.json").read_text(encoding="utf-8"))
    for name in ("order", "files", "sha256"):
        del about[name]
    (out / "about.json").write_text(json.dumps(about), encoding="utf-8")
    for name in ("names.txt", "parts.npy"):
        (out / name).unlink()
    assert len(read(out).labels) == CLASSES * EACH
    with pytest.raises(ValueError, match=r"out was written by an earlier version, .*another --out"):
        embed(workdir, out)


@given(st.lists(st.text(st.characters(exclude_characters="\0"), min_size=1)))
def test_names_of_any_characters_take_a_line_each(names):
    names = [*names, "a\nb\\nc", os.fsdecode(b"caf\xe9"), "é 中", "a\u2028b", "\\x41", "x\r"]
    with tempfile.TemporaryDirectory() as folder:
        write_names(Path(folder, "names"), names)
        assert len(Path(folder, "names").read_text(encoding="utf-8").splitlines()) == len(names)
        assert read_names(Path(folder, "names")) == names


def test_a_set_in_memory_is_listed_part_after_part():
    arrays = [np.arange(n, dtype=np.uint8)[:, None, None, None] for n in (3, 2)]
    of = {name: Images(x, x.ravel().astype(int), {}) for name, x in zip("ab", arrays, strict=True)}
    found = listing(of, None)
    assert found.names == ["a/0", "a/1", "a/2", "b/0", "b/1"]
    assert found.parts.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(found.since(2).ravel(), [2, 0, 1])


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_what_was_broken_off_goes_on(batches, workdir, expected, tmp_path, monkeypatch):
    read_batches, seen = data.ordered_batches, []

    def breaking(images, *rest):
        for x in read_batches(images, *rest):
            if len(seen) == batches:
                raise OSError("the disk is gone")
            seen.append(len(x))
            yield x

    monkeypatch.setattr(module, "SAVE_EVERY", 2)
    with monkeypatch.context() as patch:
        patch.setattr(data, "ordered_batches", breaking)
        with pytest.raises(OSError, match="gone"):
            embed(workdir, tmp_path / "out", batch=8)
    assert not (tmp_path / "out").exists()
    done = json.loads((tmp_path / ".out.part" / "done.json").read_text(encoding="utf-8"))["rows"]
    assert done == [0, 16, 32][batches // 2]
    counted = []

    def counting(images, *rest):
        counted.append(len(images))
        return read_batches(images, *rest)

    monkeypatch.setattr(data, "ordered_batches", counting)
    assert_stored(embed(workdir, tmp_path / "out", batch=10), expected)
    assert sum(counted) == 6 * EACH - done
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_is_finished_is_not_made_again(linear, workdir, tmp_path, monkeypatch):
    embed(workdir, tmp_path / "out")
    monkeypatch.setattr(data, "ordered_batches", None)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert len(embed(workdir, tmp_path / "out").labels) == 6 * EACH
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_embeddings_of_a_run_with_old_field_names_are_the_same(linear, workdir, tmp_path):
    embed(workdir, tmp_path / "out")
    path = tmp_path / "out" / "about.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    del about["sha256"]
    about["config"]["network"]["parts"] = about["config"]["network"].pop("microbatches")
    path.write_text(json.dumps(about), encoding="utf-8")
    assert len(embed(workdir, tmp_path / "out").labels) == 6 * EACH
    about["config"]["train"]["pddm_rerank_depth"] = 7  # changes neither network nor data
    path.write_text(json.dumps(about), encoding="utf-8")
    assert len(embed(workdir, tmp_path / "out").labels) == 6 * EACH
    about["config"]["network"]["parts"] += 1
    path.write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(ValueError, match=r"\(config differ\)"):
        embed(workdir, tmp_path / "out")


def test_another_place_is_left_alone(linear, workdir, config, tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=r"mine is there already"):
        embed(workdir, tmp_path / "mine")
    embed(workdir, tmp_path / "out")
    with pytest.raises(ValueError, match=r"out holds.*\(rows\b.*differ"):
        embed(workdir, tmp_path / "out", parts=["train"])
    other = tmp_path / "other run"
    shutil.copytree(workdir, other)
    (other / "config.json").write_text(json.dumps(config | {"seed": 1}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"out holds.*split.*config.*differ"):
        embed(other, tmp_path / "out")


def test_what_is_not_there_is_told(workdir, config, photos, tmp_path):
    with pytest.raises(OSError, match=r"nowhere holds no run"):
        embed(tmp_path / "nowhere", tmp_path / "out")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(OSError, match="holds no checkpoint"):
        embed(begun, tmp_path / "out")
    with pytest.raises(ValueError, match=r"data\.name.*'glyphs'.*'nothing'"):
        embed(workdir, tmp_path / "out", name="nothing")
    (begun / "config.json").write_text(json.dumps(config | {"image_shape": [9, 9, 1]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"trained on images of shape \[9, 9, 1\], not \[16, 16, 3\]"):
        embed(begun, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def command(workdir, out, *more):
    return "pddm_jax.embed", f"--checkpoint={workdir}", f"--out={out}", *more


@pytest.mark.long
def test_two_processes_that_are_killed_are_followed_by_one(start, workdir, config, photos, tmp_path):
    """On as many images as take a while, many of them the same file."""
    many = tmp_path / "many"
    for label in range(2):
        (many / f"class {label}").mkdir(parents=True)
        for number in range(1500):
            source = photos / f"class {label}" / f"{number % EACH}.png"
            (many / f"class {label}" / f"{number:04}.png").hardlink_to(source)
    more = f"--root={many}", "--data=folder", "--batch=2", "--distributed", "--num_processes=2"
    given = command(workdir, tmp_path / "out", *more, f"--coordinator={free_address()}")
    both = [start(*given, f"--process_id={i}") for i in range(2)]
    progress, deadline = tmp_path / ".out.part" / "done.json", time.monotonic() + LIMIT
    while not (progress.exists() and json.loads(progress.read_text(encoding="utf-8"))["rows"]):
        ended = [process.poll() for process in both]
        assert ended == [None, None] and time.monotonic() < deadline, both[0].communicate()  # noqa: PT018
        time.sleep(0.01)
    for process in both:
        process.kill()
        process.communicate()
    done = json.loads(progress.read_text(encoding="utf-8"))["rows"]
    assert 0 < done < 3000
    assert not (tmp_path / "out").exists()
    followed = embed(workdir, tmp_path / "out", name="folder", root=str(many), batch=256)
    assert followed.about["rows"] == {"train": 1500, "test": 1500}
    network, state = fresh(config, 7)
    variables = {"params": state.params["network"], "batch_stats": state.batch_stats}
    images = inputs(config, many)[0]
    of_files = jax.jit(network.apply)(variables, np.concatenate([images[:EACH], images[1500:][:EACH]]))
    whole = np.concatenate([np.resize(of, (1500, 5)) for of in np.split(np.array(of_files), 2)])
    np.testing.assert_allclose(followed.embeddings, whole, atol=1e-5)
    np.testing.assert_array_equal(followed.labels, inputs(config, many)[1])


def test_the_command_tells_what_is_not_there(run_command, tmp_path):
    status, _, err = run_command(*command(tmp_path / "nowhere", tmp_path / "out"))
    assert status == 2
    assert err.splitlines()[-1].startswith(f"error: {tmp_path}/nowhere holds no run")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", None),
        ("seed", True),
        ("network.unit_dim", [4]),
        ("network.unit_dim", 2**31),
        ("network.embedding_dim", -1),
        ("network.name", 3),
        ("network.remat", 1),
        ("optimizer.learning_rate", "fast"),
        ("data.image_size", "16"),
        ("data.root", 5),
        ("train.steps", 2.5),
        ("data.image_size", 2**40),
        ("optimizer.name", "none"),
        ("network.name", "x"),
        ("seed", 2**70),
        ("image_shape", [16, "x"]),
        ("network", 3),
    ],
)
def test_a_config_with_a_field_of_another_type_is_named(name, value, config, tmp_path):
    changed = json.loads(json.dumps(config))
    group, _, field = name.rpartition(".")
    (changed[group] if group else changed)[field] = value
    (tmp_path / "config.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"config\.json is damaged: {name} must be "):
        embed(tmp_path, tmp_path / "out")


def test_a_shape_of_which_no_network_can_be_made_is_named(config, workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"image_shape": [3]}))
    with pytest.raises(ValueError, match=r"config\.json is damaged, and describes no network"):
        restore_trained(tmp_path / "run", read_config(tmp_path / "run"), (3,), data_mesh())
