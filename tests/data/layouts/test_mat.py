"""MATLAB files: what SciPy writes is read, and a corrupt file is refused in bounded time and memory."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from pddm_jax.data.layouts import mat
from pddm_jax.data.layouts.mat import read_mat
from tests.helpers.builders import one_line


def saved(values, compressed):
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, values, do_compression=compressed)
    return buffer.getvalue()


def table(names, numbers):
    rows = np.zeros((1, len(names)), [("fname", "O"), ("class", "O")])
    for n, (name, number) in enumerate(zip(names, numbers, strict=True)):
        rows[0, n] = name, np.array([[number]])
    return rows


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(codec="utf-16-le", exclude_characters="\0")), st.integers(-99, 2**31)
        )
    ),
    st.sampled_from(["u1", "i2", "u2", "i4", "f4", "f8", "i8", "u8"]),
    st.booleans(),
)
def test_matlab_files_are_read_as_scipy_wrote_them(tmp_path_factory, rows, dtype, compressed):
    names, numbers = [x or "x" for x, _ in rows], np.array([n for _, n in rows]).astype(dtype)
    cell = np.zeros((1, len(names)), "O")
    cell[0, :] = names
    path = tmp_path_factory.getbasetemp() / "a.mat"
    content = {"a": table(names, numbers), "b": cell, "c": np.arange(6.0).reshape(2, 3), "d": "text"}
    path.write_bytes(saved(content, compressed))
    found = read_mat(path, ("a", "b", "c", "d", "e"))
    assert found.keys() == {"a", "b", "c", "d"}
    assert found["b"] == names
    assert found["c"].tolist() == [0, 3, 1, 4, 2, 5]  # columns first
    assert found["d"] == "text"
    assert found["a"]["fname"] == names
    assert [x.tolist() for x in found["a"]["class"]] == [[x] for x in numbers.tolist()]
    assert read_mat(path, ("d",)) == {"d": "text"}


def test_a_matlab_file_of_the_other_byte_order(tmp_path):
    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    parts = [element(6, struct.pack(">II", 10, 0)), element(5, struct.pack(">ii", 1, 3)), element(1, b"x")]
    matrix = element(14, b"".join([*parts, element(4, struct.pack(">3H", 1, 2, 65_000))]))
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\1\0MI" + matrix)
    assert read_mat(tmp_path / "a.mat", ("x",))["x"].tolist() == [1, 2, 65_000]


def test_spoilt_matlab_files_end_in_one_line_and_take_no_memory(tmp_path):
    """SciPy's reader ends the process, or asks for all memory, on some of these."""
    rng, path = np.random.default_rng(0), tmp_path / "a.mat"
    whole = saved({"annotations": table([f"{n}.jpg" for n in range(5)], range(5))}, compressed=False)
    spoilt = []
    for place in range(128, len(whole), 4):  # each number in turn
        for value in (0, 0x7FFFFFFF, 0xFFFFFFF8, int(rng.integers(2**32))):
            spoilt.append(whole[:place] + struct.pack("<I", value) + whole[place + 4 :])
    spoilt += [whole[:n] for n in range(0, len(whole), 7)]
    refused = 0
    for data in spoilt:
        path.write_bytes(data)
        try:
            read_mat(path, ("annotations",))
        except ValueError as error:
            refused += 1
            assert str(path) in one_line(error)  # noqa: PT017
    assert refused > len(spoilt) / 2


def compressed_variable(data):
    packed = zlib.compress(data)
    return struct.pack("<II", 15, len(packed)) + packed  # not filled up to 8 bytes


EDITS = st.one_of(
    st.tuples(st.just("byte"), st.integers(0, 2**16), st.integers(0, 255)),
    st.tuples(st.just("size"), st.integers(0, 2**16), st.sampled_from([0, 7, 2**16, 2**31 - 1, 2**32 - 8])),
    st.tuples(st.just("cut"), st.integers(0, 2**16), st.integers(1, 40)),
    st.tuples(st.just("copy"), st.integers(0, 2**16), st.integers(1, 80)),
    st.tuples(st.just("end"), st.integers(0, 2**16), st.none()),
)


def edited(data, edits):
    """The bytes of a file after random damage."""
    data = bytearray(data)
    for kind, place, value in edits:
        place %= len(data) or 1
        if kind == "byte":
            data[place : place + 1] = bytes([value])
        elif kind == "size":
            place -= place % 4
            data[place : place + 4] = struct.pack("<I", value)
        elif kind == "cut":
            del data[place : place + value]
        elif kind == "copy":
            data[place:place] = data[place : place + value]
        else:
            del data[place:]
    return bytes(data)


CONTENT = {"annotations": table([f"{n}.jpg" for n in range(4)], range(4)), "x": np.eye(2), "y": "text"}
WHOLE = {kind: saved(CONTENT, kind != "plain") for kind in ("plain", "compressed")}


@settings(max_examples=300, deadline=2000, derandomize=True)
@given(st.sampled_from(["plain", "compressed", "packed"]), st.lists(EDITS, min_size=1, max_size=4))
def test_every_corrupt_matlab_file_is_read_or_refused_in_one_line(tmp_path_factory, kind, edits):
    path = tmp_path_factory.getbasetemp() / "corrupt.mat"
    data = edited(WHOLE["compressed" if kind == "compressed" else "plain"], edits)
    if kind == "packed":  # damaged first, compressed then: the damage is not found by a checksum
        data = data[:128].ljust(128, b"\0") + compressed_variable(data[128:])
    path.write_bytes(data)
    tracemalloc.start()
    try:
        read_mat(path, ("annotations", "x", "y"))
    except ValueError as error:
        assert str(path) in one_line(error)  # noqa: PT017
        assert len(str(error)) < len(str(path)) + 300  # noqa: PT017
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**22


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(kind, shape, content):
    """The bytes of an array x."""
    sizes = element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, element(6, struct.pack("<II", kind, 0)) + sizes + element(1, b"x") + content)


def fields(count):
    return element(5, struct.pack("<i", 2)) + element(1, b"a\0" * count)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (array(1, [100_000, 1], element(14, b"") * 100_000), "more than 10,000 elements"),
        (element(99, b"") * 20_000, "more than 10,000 elements"),
        (array(6, [1] * 100_000, element(9, b"")), "2 flags and 100000 dimensions"),
        (
            array(2, [0, 1], fields(5_000)),
            "field names of a struct have 10000 characters, expected a multiple of 2",
        ),
        (array(1, [2**31 - 1, 2**31 - 1], b""), "arrays do not fit into 0 bytes"),
    ],
    ids=["empty arrays", "elements", "dimensions", "fields", "cells"],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_many_small_things_in_a_matlab_file_are_refused(content, words, compressed, tmp_path, monkeypatch):
    monkeypatch.setattr(mat, "MOST_ELEMENTS", 10_000)
    if compressed and content.startswith(element(99, b"")):
        content = compressed_variable(element(99, b"")) * 5_001
    elif compressed:  # a file of a few kilobytes, whatever it asks for
        content = compressed_variable(content)
    (tmp_path / "a.mat").write_bytes(b"".ljust(126) + b"IM" + content)
    with pytest.raises(ValueError, match=rf"a\.mat is not a readable MATLAB file: .*{words}") as caught:
        read_mat(tmp_path / "a.mat", ("x",))
    assert len(one_line(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not of level 5"),
        (b"<html>".ljust(500), "not of level 5"),
        (b"MATLAB 7.3 MAT-file".ljust(126) + b"IM", "save it with -v7"),
        (
            b"".ljust(126) + b"IM" + struct.pack("<II", 14, 2**31),
            "2,147,483,648 bytes, but only 0 are left",
        ),
        (b"".ljust(126) + b"IM" + struct.pack("<II", 15, 4) + b"abcd", "incorrect header check"),
    ],
)
def test_what_is_no_matlab_file_is_told(content, words, tmp_path):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.mat is not a readable MATLAB file: .*{words}"):
        read_mat(tmp_path / "a.mat", ())


@pytest.mark.parametrize("variables", [1, 500])
def test_what_inflates_without_end_is_refused(variables, tmp_path, monkeypatch):
    monkeypatch.setattr(mat, "LARGEST", 2**16)
    zeros = array(6, [2**21 // variables, 1], element(9, bytes(2**24 // variables)))
    (tmp_path / "a.mat").write_bytes(b"".ljust(126) + b"IM" + compressed_variable(zeros) * variables)
    with pytest.raises(ValueError, match="its compressed variables have more than 65,536 bytes in all"):
        read_mat(tmp_path / "a.mat", ())
