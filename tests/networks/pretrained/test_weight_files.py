"""Files of weights that lie are refused in one line, soon, within little memory; sound ones are read."""

import io
import json
import os
import pickle
import stat
import zipfile
import zlib
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pddm_jax.networks.pretrained.load import file_sha256, load_pretrained
from pddm_jax.networks.pretrained.tensor_pickle import MAX_OPCODES, PickleReader
from pddm_jax.networks.pretrained.tensors import open_tensors, read_tensors
from pddm_jax.system.regular import open_regular
from tests.helpers import hostile_weights
from tests.helpers.hostile_weights import GOOD, HEAD, entry, safetensors, state, stored, tensor

SECONDS = 10  # for the slowest, on slow cores that others use too
FOUR = np.array([1.5, -2, 0.25, 3], np.float32)


@pytest.fixture(scope="module")
def hostile(python, tmp_path_factory):
    """A folder of hostile files, what each should be refused with, and what a process said of it."""
    folder = tmp_path_factory.mktemp("hostile")
    expected = hostile_weights.write(folder)
    status, out, err = python("-m", "tests.helpers.hostile_weights", folder)
    assert status == 0, err
    return folder, expected, [json.loads(line) for line in out.splitlines()]


def test_hostile_files_are_refused_in_one_line_and_within_bounds(hostile):
    folder, expected, found = hostile
    assert {name for name, *_ in found} == {*expected}
    for name, seconds, said in found:
        start = f"{folder / name} cannot be read as tensors: "
        assert said.startswith(start), (name, said)
        assert expected[name] in said, (name, said)
        assert said.isprintable(), name
        assert len(said) < len(start) + 400, (name, said)
        assert "MemoryError" not in said, name
        assert seconds < SECONDS, name


# Sound files


def legacy(code, *arrays):
    ends = b"".join(np.int64(x.size).tobytes() + x.tobytes() for x in arrays)
    return HEAD + code + pickle.dumps([str(n) for n in range(len(arrays))], 2) + ends


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_sound_zip_files(method, tmp_path):
    (tmp_path / "x").write_bytes(stored(GOOD, FOUR.tobytes(), method))
    np.testing.assert_array_equal(read_tensors(tmp_path / "x")["a"], FOUR)


def test_a_zip_file_without_checksums(tmp_path):
    """As torch.serialization.set_crc32_options(False) makes torch write them."""
    data = stored(GOOD, FOUR.tobytes())
    for content in (GOOD, FOUR.tobytes()):
        data = data.replace(zlib.crc32(content).to_bytes(4, "little"), bytes(4))
    (tmp_path / "x").write_bytes(data)
    np.testing.assert_array_equal(read_tensors(tmp_path / "x")["a"], FOUR)


def test_a_legacy_file(tmp_path):
    (tmp_path / "x").write_bytes(legacy(GOOD, FOUR))
    np.testing.assert_array_equal(read_tensors(tmp_path / "x")["a"], FOUR)


def test_items_of_an_ordered_dict_as_python_2_writes_them(tmp_path):
    pairs = b"](](U\x01a" + tensor() + b"ee"
    code = b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R."
    (tmp_path / "x").write_bytes(legacy(code, FOUR))
    np.testing.assert_array_equal(read_tensors(tmp_path / "x")["a"], FOUR)


DTYPES = [np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
DTYPES += [np.float16, np.float32, np.float64]


def test_what_safetensors_itself_writes(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {np.dtype(d).name: rng.integers(0, 2, (3, 4)).astype(d) for d in DTYPES}
    arrays |= {"number": np.array(7, np.float32), "none": np.zeros((0, 3), np.float32)}
    arrays["brain"] = np.array([1.5, -3], ml_dtypes.bfloat16)
    save_file(arrays, tmp_path / "x", {"format": "np"})
    found = read_tensors(tmp_path / "x")
    assert found.keys() == arrays.keys()
    for name, x in arrays.items():
        half = name in ("float16", "brain")
        np.testing.assert_array_equal(found[name], x.astype(np.float32) if half else x, strict=True)


def test_only_what_is_asked_for_is_read(tmp_path):
    header = {"a": entry(), "b": entry(shape=(2**28,), offsets=(16, 16 + 2**30))}
    with (tmp_path / "x").open("wb") as file:
        file.write(safetensors(header, FOUR.tobytes()))
        file.truncate(file.tell() + 2**30)
    with open_tensors(tmp_path / "x") as found:
        assert found.layouts["b"].shape == (2**28,)
        np.testing.assert_array_equal(found.read(["a"])["a"], FOUR)


SCALARS = st.none() | st.booleans() | st.integers(-(2**500), 2**500) | st.floats() | st.text() | st.binary()
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**59), 2**59), inner)
    ),
)


@given(TREES, st.integers(3, 5))
@settings(deadline=None)
def test_plain_trees_are_read_as_pickle_reads_them(tree, protocol):
    text = pickle.dumps(tree, protocol)
    twin = PickleReader(io.BytesIO(text)).load()
    assert repr(twin) == repr(pickle.loads(text))


def test_the_limit_leaves_room_for_large_networks():
    tree = {f"layer.{n}.weight": [n, (n, n), {"state": n}] for n in range(20_000)}
    reader = PickleReader(io.BytesIO(pickle.dumps(tree, 2)))
    assert reader.load() == tree
    assert reader.opcodes > MAX_OPCODES / 2


SOUND = {
    "zip": stored(GOOD, FOUR.tobytes()),
    "deflated": stored(GOOD, FOUR.tobytes(), zipfile.ZIP_DEFLATED),
    "legacy": legacy(GOOD, FOUR),
    "safetensors": safetensors({"a": entry()}, FOUR.tobytes()),
}


@pytest.mark.parametrize("kind", SOUND)
@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_damage_is_told_in_one_line_or_the_tensors_are_of_the_size_that_is_stored(
    kind, data, tmp_path_factory
):
    whole = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        cut = data.draw(st.integers(0, 9))
        whole[place : place + cut] = data.draw(st.binary(max_size=9))
    path = tmp_path_factory.getbasetemp() / f"damaged {kind}"
    path.write_bytes(whole)
    told, found = "", {}
    try:
        found = read_tensors(path)
    except ValueError as error:
        told = str(error)
    assert sum(x.size for x in found.values()) <= 64
    assert told.startswith(f"{path} cannot be read as tensors: " if told else "")
    assert told.isprintable()


@pytest.mark.parametrize("kind", ["zip", "deflated"])
def test_any_flipped_bit_of_a_zip_files_storage_is_found(kind, tmp_path):
    whole = stored(GOOD, FOUR.tobytes() if kind == "zip" else bytes(range(16)))
    start = whole.index(FOUR.tobytes() if kind == "zip" else bytes(range(16)))
    for bit in range(128):
        flipped = bytearray(whole)
        flipped[start + bit // 8] ^= 1 << bit % 8
        (tmp_path / "x").write_bytes(flipped)
        with pytest.raises(ValueError, match="storage 0 is damaged: Bad CRC-32"):
            read_tensors(tmp_path / "x")


# What is no regular file


@pytest.mark.parametrize("read", [read_tensors, file_sha256])
def test_only_regular_files_are_opened(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path, told in (
        (tmp_path, "is a folder, not a regular file"),
        (tmp_path / "pipe", "is a FIFO, not a regular file"),
        (tmp_path / "link", "is a device, not a regular file"),
    ):
        with pytest.raises(ValueError, match=f"^{path} {told}$"):
            read(path)
    with pytest.raises(FileNotFoundError, match="none"):
        read(tmp_path / "none")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        read(tmp_path / "loop")


def test_an_empty_file_and_one_that_may_not_be_read(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match=r"x cannot be read as tensors: it is empty$"):
        read_tensors(tmp_path / "x")
    if os.geteuid():  # root may read all
        (tmp_path / "x").chmod(0)
        with pytest.raises(PermissionError, match=r"x'$"):
            read_tensors(tmp_path / "x")


def test_a_file_that_is_opened_is_closed(tmp_path):
    (tmp_path / "x").write_bytes(b"y")
    before = len([*Path("/proc/self/fd").iterdir()])
    with open_regular(tmp_path / "x") as file:
        assert file.read() == b"y"
        assert stat.S_ISREG(os.fstat(file.fileno()).st_mode)
    for path in (tmp_path, tmp_path / "x"):
        with pytest.raises(ValueError, match=str(path)):
            read_tensors(path)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


# From files to trees


def loaded(path, dtype="F32", data=FOUR, offsets=(0, 16)):
    """A tree of one bias out of a file of it and of a classifier that is all nan."""
    n = offsets[1]
    header = {"conv.bias": entry(dtype, (4,), offsets), "fc.weight": entry("F32", (2, 2), (n, n + 16))}
    path.write_bytes(safetensors(header, data.tobytes() + np.full(4, np.nan, np.float32).tobytes()))
    variables = {"params": {"conv": {"bias": jnp.zeros(4)}}}
    return load_pretrained("resnet50", str(path), variables)["params"]["conv"]["bias"]


def test_numbers_that_are_no_weights_are_refused_by_name(tmp_path):
    path = tmp_path / "x"
    np.testing.assert_array_equal(loaded(path), FOUR)  # whatever the classifier holds
    told = r"^\S+x has weights that are nan or infinite as float32: "
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(ValueError, match=rf"{told}2 of 4 in conv\.bias$"):
            loaded(path, data=np.array([1, value, 2, value], np.float32))
    with pytest.raises(ValueError, match=rf"{told}1 of 4 in conv\.bias$"):
        loaded(path, "F64", np.array([1, 2, 1e39, 3.4e38]), (0, 32))
    np.testing.assert_array_equal(loaded(path, "F64", FOUR.astype(np.float64), (0, 32)), FOUR)


@pytest.mark.parametrize("kind", ["I32", "U32", "I64", "BOOL"])
def test_integers_are_no_weights(kind, tmp_path):
    dtype = {"I32": np.int32, "U32": np.uint32, "I64": np.int64, "BOOL": np.bool_}[kind]
    data = np.ones(4, dtype)
    with pytest.raises(ValueError, match=rf"not floating: conv\.bias {data.dtype}$"):
        loaded(tmp_path / "x", kind, data, (0, data.nbytes))


def test_a_view_of_a_shape_that_does_not_fit_is_never_made(tmp_path):
    code = state(tensor(4, 0, (2**30, 2**20), (0, 0))).replace(b"X\x01\0\0\0a", b"X\x09\0\0\0conv.bias")
    (tmp_path / "x").write_bytes(stored(code))
    with pytest.raises(ValueError, match=r"misshapen: conv\.bias \[1073741824, 1048576\], not \[4\]"):
        load_pretrained("resnet50", str(tmp_path / "x"), {"params": {"conv": {"bias": jnp.zeros(4)}}})
