"""Records of diverged steps: written, read, checked and replayed."""

import io
import json
import zipfile

import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from experiments.configs import quickstart
from pddm_jax.losses.objectives import make_objective
from pddm_jax.networks import make_network
from pddm_jax.pddm.unit import PDDM
from pddm_jax.sharding import data_mesh
from pddm_jax.training.optimizer import make_optimizer
from pddm_jax.training.replay import Finding, examine, read_record, report, write_record
from pddm_jax.training.rerun import record, replay
from pddm_jax.training.state import init_state
from pddm_jax.training.step import Diverged, make_train_step
from pddm_jax.types import Batch

SIZE = 8


@pytest.fixture(scope="module")
def problem():
    """A small config, the parts of its step, and a batch."""
    config = quickstart.get_config()
    config.data.update(image_size=SIZE, classes_per_batch=3, images_per_class=2)
    config.network.update(embedding_dim=6, unit_dim=4)
    config.objective.name = "contrastive"
    loss, _ = make_objective("contrastive")
    optimizer = make_optimizer(**config.optimizer, steps=config.train.steps)
    parts = make_network("small_cnn", 6), loss, optimizer
    images = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 1), dtype=np.uint8)
    mesh = data_mesh(jax.devices()[:1])
    return config, parts, mesh, Batch(images, np.repeat(np.arange(3, dtype=np.int32), 2))


def state_of(problem):
    config, (network, _, optimizer), mesh, _ = problem
    return init_state(network, PDDM(4, 4), optimizer, (SIZE, SIZE, 1), config.seed, mesh)


def written(problem, tmp_path, state):
    config, *_, batch = problem
    about = {
        "config": json.loads(config.to_json()),
        "step": 5,
        "not_finite": {"loss": "nan"},
        "classes": 0,
        "versions": {"jax": "0.0"},
    }
    write_record(tmp_path / "diverged-step-5.npz", about, state, batch)
    return tmp_path / "diverged-step-5.npz"


def test_a_record_comes_back_to_the_bit(problem, tmp_path):
    state = state_of(problem)
    found = read_record(written(problem, tmp_path, state))
    jax.tree.map(np.testing.assert_array_equal, found.state(state), state)
    np.testing.assert_array_equal(found.batch.images, problem[3].images)
    np.testing.assert_array_equal(found.batch.labels, problem[3].labels)
    assert [path.name for path in tmp_path.iterdir()] == ["diverged-step-5.npz"]
    assert found.about["not_finite"] == {"loss": "nan"}


@pytest.mark.long
def test_the_step_of_a_record_is_that_of_the_run(problem):
    _, parts, mesh, batch = problem
    logs, findings = examine(*parts, mesh, state_of(problem), batch)
    after, expected = make_train_step(*parts, mesh)(state_of(problem), batch)
    assert {*logs} == {*expected}
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5)
    assert not any(finding.wrong for finding in findings)
    largest = {x.name: x.largest for x in findings if x.part == "parameters after"}
    for path, leaf in jax.tree_util.tree_leaves_with_path(after.params):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        np.testing.assert_allclose(largest[name], np.abs(leaf).max(), rtol=1e-4)


@pytest.mark.long
def test_a_replay_tells_where_it_is_not_finite_first(problem, tmp_path):
    state = state_of(problem)
    kernel = state.params["network"]["embedding"]["kernel"]
    state.params["network"]["embedding"]["kernel"] = kernel.at[0, 0].set(np.inf)
    lines = replay(written(problem, tmp_path, state)).splitlines()
    assert lines[0].startswith("step 5 of contrastive on glyphs, seed 0: 6 images")
    assert lines[1] == "in the run: loss nan"
    assert any("jax 0.0 (here " in line for line in lines)
    assert any(line.strip().startswith("network/embedding/kernel: 1 of ") for line in lines)
    assert lines[-1] == "not finite first: parameters before, network/embedding/kernel"


def test_a_report_tells_what_is_finite():
    found = [Finding("loss", "loss", 0, 1, 2.5), Finding("gradients", "a", 0, 4, 0.5)]
    assert report(found).splitlines()[-1] == "all is finite here"
    assert "largest 2.5 in loss" in report(found)
    many = [Finding("gradients", str(n), 1, 4, 0.5) for n in range(20)]
    assert "and 12 more" in report(many)


def test_what_is_no_record_is_named(problem, tmp_path):
    path = written(problem, tmp_path, state_of(problem))
    content = path.read_bytes()
    with pytest.raises(OSError, match="nowhere"):
        read_record(tmp_path / "nowhere.npz")
    for damaged in (
        b"",
        b"PK",
        content[:999],
        content[: len(content) // 2],
        b"x" * 999,
        content[:-60] + content[-50:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"diverged-step-5\.npz is not a record of a diverged step"):
            read_record(path)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match="not a record"):
        read_record(path)
    np.savez(path, about=np.array([object()], dtype=object))  # a pickle, which is not opened
    with pytest.raises(ValueError, match="not a record"):
        read_record(path)
    np.savez(path, about=np.frombuffer(b'{"config": {}, "step": 1}', np.uint8), images=[1], labels=[1])
    with pytest.raises(ValueError, match="is damaged, or was written by an incompatible version"):
        replay(path)


def rewritten(path, compression=zipfile.ZIP_STORED, **members):
    """Write a record again with other members: bytes as they are, None for none."""
    with zipfile.ZipFile(path) as file:
        content = {name: file.read(name) for name in file.namelist()}
    content |= {f"{name}.npy": data for name, data in members.items()}
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in content.items():
            if data is not None:
                file.writestr(name, data)


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def told_of(path, **fields):
    with zipfile.ZipFile(path) as file:
        about = json.loads(np.load(io.BytesIO(file.read("about.npy"))).tobytes())
    return as_npy(np.frombuffer(json.dumps(about | fields).encode(), np.uint8))


def test_members_of_a_record_are_bounded_by_its_file(problem, tmp_path):
    path = written(problem, tmp_path, state_of(problem))
    content = path.read_bytes()
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d,), }"
    for damage in (
        {"compression": zipfile.ZIP_DEFLATED},
        {"compression": zipfile.ZIP_BZIP2},
        {"images": (header % 2**40).ljust(127) + b"\n"},
        {"images": (header % 2).ljust(127) + b"\n" + b"x" * 9},
        {"images": b""},
        {"images": b"\x93NUMPY\x02\x00"},
        {"images": None},
        {"about": as_npy(np.frombuffer(b"[" * 99_999, np.uint8))},
        {"about": as_npy(np.frombuffer(b"[1]", np.uint8))},
    ):
        path.write_bytes(content)
        rewritten(path, **damage)
        with pytest.raises(ValueError, match=r"diverged-step-5\.npz is not a record of a diverged step"):
            read_record(path)
    # The method of compression, where the list of members and the member itself tell it.
    for method in (8, 12, 14, 99):
        changed = bytearray(content)
        for signature, place in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            at = content.find(signature) + place
            changed[at : at + 2] = method.to_bytes(2, "little")
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="not a record"):
            read_record(path)
    with pytest.raises(ValueError, match="is a folder, not a regular file"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"step": "5"},
        {"step": True},
        {"step": -1},
        {"classes": 10**9},
        {"classes": None},
        {"not_finite": ["loss"]},
        {"not_finite": {"loss": 1}},
        {"versions": None},
        {"versions": {"jax": 1}},
        {"config": None},
    ],
)
def test_what_a_record_tells_is_checked(fields, problem, tmp_path):
    path = written(problem, tmp_path, state_of(problem))
    rewritten(path, about=told_of(path, **fields))
    with pytest.raises(ValueError, match="not a record of a diverged step"):
        read_record(path)


def test_the_config_of_a_record_is_checked_as_one_that_is_given(problem, tmp_path):
    path = written(problem, tmp_path, state_of(problem))
    content, given = path.read_bytes(), json.loads(problem[0].to_json())
    for group, field, value in (
        ("data", "classes_per_batch", 10**12),
        ("data", "classes_per_batch", 4),
        ("network", "embedding_dim", "6"),
        ("network", "unit_dim", 65_536),
        ("network", "name", "none"),
        ("objective", "name", None),
        ("optimizer", "learning_rate", float("nan")),
        ("more", "field", 1),
    ):
        path.write_bytes(content)
        config = given | {group: given.get(group, {}) | {field: value}}
        rewritten(path, about=told_of(path, config=config))
        with pytest.raises(ValueError, match="is damaged, or was written by an incompatible version"):
            replay(path)
    path.write_bytes(content)
    rewritten(path, about=told_of(path, config=dict.fromkeys(given, 3)))
    with pytest.raises(ValueError, match="is damaged, or was written by an incompatible version"):
        replay(path)


@pytest.mark.long
def test_a_replay_needs_no_file_of_the_run_and_no_newer_field(problem, tmp_path):
    path = written(problem, tmp_path, state_of(problem))
    config = json.loads(problem[0].to_json())
    config["network"]["pretrained"] = "/nowhere/weights.pth"
    config["data"] |= {"root": "/nowhere", "test_classes": None}
    del config["data"]["max_pixels"]
    rewritten(path, about=told_of(path, config=config))
    assert replay(path).splitlines()[0].startswith("step 5 of contrastive on glyphs")


def test_a_record_with_old_names_of_fields_is_run_again(problem, tmp_path):
    path = written(problem, tmp_path, state_of(problem))
    config = json.loads(problem[0].to_json()) | {"python": {}}
    del config["evaluation"]
    config["network"]["parts"] = config["network"].pop("microbatches")
    config["objective"]["per"] = config["objective"].pop("mining_scope")
    config["optimizer"]["unit_factor"] = config["optimizer"].pop("pddm_lr_multiplier")
    rewritten(path, about=told_of(path, config=config))
    assert replay(path).splitlines()[0].startswith("step 5 of contrastive on glyphs")


def test_a_record_of_frozen_statistics_needs_no_weights(problem, tmp_path):
    path = written(problem, tmp_path, state_of(problem))
    config = json.loads(problem[0].to_json())
    config["network"] |= {"pretrained": "/nowhere/weights.pth", "freeze_batch_stats": True}
    rewritten(path, about=told_of(path, config=config))
    assert replay(path).splitlines()[0].startswith("step 5 of contrastive on glyphs")


def diverged(problem, tmp_path, own):
    """What a run tells of the record of a diverged step."""
    config, *_, batch = problem
    config = FrozenConfigDict({**config.to_dict(), **({"python": own} if own else {})})
    return record(tmp_path, config, Diverged(5, {"loss": np.nan}), state_of(problem), batch, 0)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"objective": "mine.loss"}, "its objective was given from Python"),
        (
            {"network": "Flat()", "optimizer": "given"},
            "its network and its optimizer were given from Python",
        ),
    ],
)
def test_a_step_with_parts_from_python_is_saved_and_not_run_again(own, words, problem, tmp_path):
    path = tmp_path / "diverged-step-5.npz"
    told = diverged(problem, tmp_path, own)
    assert told == f"the step is saved in {path}, but --replay cannot run it again: {words}"
    assert read_record(path).about["step"] == 5
    with pytest.raises(ValueError, match=f"diverged-step-5.npz cannot be run again by --replay: {words}$"):
        replay(path)


def test_a_step_of_parts_by_name_is_run_again(problem, tmp_path):
    assert diverged(problem, tmp_path, None).startswith(f"--replay={tmp_path / 'diverged-step-5.npz'} runs")
    assert replay(tmp_path / "diverged-step-5.npz").splitlines()[1] == "in the run: loss nan"
