"""PyTorch checkpoints and safetensors files, written by hand and read without PyTorch."""

import io
import json
import pickle
import re
import struct
import sys
import zipfile
from collections import OrderedDict
from types import ModuleType

import numpy as np
import pytest

from pddm_jax.networks.pretrained.tensors import read_tensors


class Storage:
    def __init__(self, kind, key, data):
        self.kind, self.key, self.data = kind, key, data


class Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.reduced = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        return sys.modules["torch._utils"]._rebuild_tensor_v2, self.reduced


def stub(module, name):
    """A global that pickle finds under this name."""
    return type(name, (), {"__module__": module})


@pytest.fixture
def torch_names(monkeypatch):
    """Modules with PyTorch's names, as far as files need them."""
    torch, utils = ModuleType("torch"), ModuleType("torch._utils")
    for kind in ("Float", "Half", "BFloat16", "Long"):
        setattr(torch, f"{kind}Storage", stub("torch", f"{kind}Storage"))
    utils._rebuild_tensor_v2 = stub("torch._utils", "_rebuild_tensor_v2")
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)


def pickled(tree, *view):
    stored = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, x):
            if not isinstance(x, Storage):
                return None
            stored[x.key] = x.data
            length = x.data.size
            return ("storage", getattr(sys.modules["torch"], x.kind), x.key, "cpu", length, *view)

    file = io.BytesIO()
    Pickler(file, 2).dump(tree)
    return file.getvalue(), stored


def write_zip(path, tree):
    code, stored = pickled(tree)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", code)
        archive.writestr("archive/byteorder", "little")
        for key, data in stored.items():
            archive.writestr(f"archive/data/{key}", data.tobytes())


def write_legacy(path, tree):
    code, stored = pickled(tree, None)
    head = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001})
    start = b"".join(pickle.dumps(x, 2) for x in head)
    ends = [struct.pack("<q", data.size) + data.tobytes() for data in stored.values()]
    path.write_bytes(start + code + pickle.dumps([*stored], 2) + b"".join(ends))


def write_safetensors(path, entries):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in entries.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": offsets}
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


WRITERS = {"zip": write_zip, "legacy": write_legacy}
BASE = np.arange(24, dtype=np.float32)
BF16 = (np.array([1.5, -2, 0.15625], np.float32).view(np.uint32) >> 16).astype(np.uint16)


def tree_and_values():
    base = Storage("FloatStorage", "0", BASE)
    half = Storage("HalfStorage", "1", np.array([1, 0.5, 2**-14], np.float16))
    brain = Storage("BFloat16Storage", "2", BF16)
    long = Storage("LongStorage", "3", np.array([2**40], np.int64))
    grid = BASE.reshape(4, 6)
    return {
        "whole": (Tensor(base, 0, (4, 6), (6, 1)), grid),
        "turned": (Tensor(base, 0, (6, 4), (1, 6)), grid.T),
        "strided": (Tensor(base, 7, (3, 2), (6, 2)), grid[1:, 1:4:2]),
        "empty": (Tensor(base, 0, (0, 3), (3, 1)), np.zeros((0, 3), np.float32)),
        "half": (Tensor(half, 0, (3,), (1,)), np.array([1, 0.5, 2**-14], np.float32)),
        "brain": (Tensor(brain, 0, (3,), (1,)), np.array([1.5, -2, 0.15625], np.float32)),
        "number": (Tensor(long, 0, (), ()), np.array(2**40)),
    }


@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("kind", WRITERS)
def test_checkpoints_are_read(kind, wrap, tmp_path, torch_names):
    pairs = tree_and_values()
    tree = OrderedDict((name, tensor) for name, (tensor, _) in pairs.items())
    tree._metadata = {"": {"version": 1}}
    WRITERS[kind](tmp_path / "x.pth", {wrap: tree, "epoch": 3} if wrap else tree)
    found = read_tensors(tmp_path / "x.pth")
    assert [*found] == [*pairs]
    for name, (_, expected) in pairs.items():
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    with pytest.raises(ValueError, match="read-only"):  # tensors share their storage
        found["whole"][:] = 0


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "x.safetensors"
    entries = {"a": ("F32", BASE.reshape(4, 6)), "b": ("BF16", BF16), "n": ("I64", np.array(7))}
    write_safetensors(path, entries)
    found = read_tensors(path)
    np.testing.assert_array_equal(found["a"], BASE.reshape(4, 6))
    np.testing.assert_array_equal(found["b"], np.array([1.5, -2, 0.15625], np.float32))
    assert found["n"].shape == ()
    assert found["n"] == 7


class Hostile:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_pickle_asks_for_is_refused_by_name_and_not_run(kind, tmp_path, torch_names):
    path, proof = tmp_path / "x.pth", tmp_path / "proof"
    WRITERS[kind](path, {"state_dict": {"a": Hostile(proof)}})
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}.* _?io\.open, which is refused"):
        read_tensors(path)
    assert not proof.exists()


@pytest.mark.parametrize("place", range(3))
def test_the_pickles_before_and_after_are_guarded_too(place, tmp_path):
    path, proof = tmp_path / "x.pth", tmp_path / "proof"
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    head[place] = Hostile(proof)
    path.write_bytes(b"".join(pickle.dumps(x, 2) for x in head))
    with pytest.raises(ValueError, match="which is refused"):
        read_tensors(path)
    assert not proof.exists()


@pytest.mark.parametrize("kind", [*WRITERS, "safetensors"])
def test_truncated_files_are_told_by_name(kind, tmp_path, torch_names):
    path = tmp_path / "x"
    if kind == "safetensors":
        write_safetensors(path, {"a": ("F32", BASE)})
    else:
        WRITERS[kind](path, {"a": tree_and_values()["whole"][0]})
    whole = path.read_bytes()
    assert read_tensors(path)["a"].size == 24
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_tensors(path)


@pytest.mark.parametrize(
    "view",
    [(0, (4, 7), (6, 1)), (5, (4, 6), (6, 1)), (0, (2,), (-1,)), (-1, (2,), (1,)), (0, (2,), (1, 1))],
)
def test_tensors_outside_their_storage(view, tmp_path, torch_names):
    write_zip(tmp_path / "x", {"a": Tensor(Storage("FloatStorage", "0", BASE), *view)})
    with pytest.raises(ValueError, match="a tensor "):
        read_tensors(tmp_path / "x")


def test_a_tensor_of_one_element_over_and_over_takes_no_memory(tmp_path, torch_names):
    write_zip(tmp_path / "x", {"a": Tensor(Storage("FloatStorage", "0", BASE), 1, (10**6, 10**6), (0, 0))})
    found = read_tensors(tmp_path / "x")["a"]
    assert found.shape == (10**6, 10**6)
    assert found[5, 7] == BASE.ravel()[1]


def test_what_holds_no_tensors(tmp_path, torch_names):
    path = tmp_path / "x"
    for tree, told in (({"a": 3}, r"not tensors: \['a'\]"), ([1], "holds a list")):
        write_zip(path, tree)
        with pytest.raises(ValueError, match=told):
            read_tensors(path)
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "none")
