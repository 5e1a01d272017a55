"""Tables, lists and MATLAB files: what is wrong in them is named by file and line, and takes no memory."""

import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from pddm_jax.data import load, protocols
from pddm_jax.data.layouts.cars196 import find_cars196
from pddm_jax.data.layouts.cub200 import find_cub200
from pddm_jax.data.layouts.mat import read_mat
from pddm_jax.data.layouts.sop import find_sop
from pddm_jax.data.layouts.tables import inner_path, integer, read_table, real
from pddm_jax.data.layouts.wnids import read_ground_truth, read_wnids
from pddm_jax.data.protocols import Count, Expected
from pddm_jax.system.regular import read_bytes, read_lines, read_text
from tests.data.test_sources import birds, kaggle, one_folder, products, rows_of, two_folders


def one_line(error):
    assert "\n" not in str(error)
    return str(error)


# --------------------------------------------------------------------------------------------- text files


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_end_as_they_do_anywhere_and_may_begin_with_a_mark(end, mark, tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(mark + end.join([" 1 é", "", "2\u2028b c ", ""]).encode())
    assert read_lines(file) == [(1, "1 é"), (3, "2\u2028b c")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\nb\n".encode("utf-16"), "line 1, is no text: byte 0xff is not UTF-8"),
        ("a\nb\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
        (b"a\n\xe9\n", "line 2, is no text: byte 0xe9 is not UTF-8"),
        (b"a\nb\0c\n", "line 2 holds a NUL byte"),
        (b"a\n" + b"x" * 70_000, "line 2: 70,000 characters, more than the 65,536 of a line"),
    ],
)
def test_what_is_no_text_is_named_with_its_line(content, words, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    for read in (read_lines, read_wnids, lambda path: read_ground_truth(path, 9)):
        with pytest.raises(ValueError, match=f"a.txt, {words}") as caught:
            read(tmp_path / "a.txt")
        one_line(caught.value)


def test_a_list_that_is_no_regular_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for path, kind in (
        (tmp_path / "fifo", "a FIFO"),
        (tmp_path / "zero", "a device"),
        (tmp_path, "a folder"),
    ):
        for read in (read_text, read_lines, read_wnids, lambda path: read_mat(path, ())):
            with pytest.raises(ValueError, match=f"{path} is {kind}, not a regular file"):
                read(path)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**30 + 1)
    with pytest.raises(ValueError, match="large has 1,073,741,825 bytes"):
        read_text(tmp_path / "large")


def test_a_file_without_a_size_is_read_to_its_end():
    assert "Name" in read_text("/proc/self/status")
    assert read_bytes("/proc/self/maps").count(b"\n") > 10


def test_an_empty_file_takes_no_memory(tmp_path):
    (tmp_path / "empty").touch()
    tracemalloc.start()
    try:
        assert read_bytes(tmp_path / "empty") == b""
        assert tracemalloc.get_traced_memory()[1] < 2**16
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["1_0", "\N{FULLWIDTH DIGIT ONE}", "0x1", "1.0", "", "-", "9" * 5000, "2147483648", "+1", "nan"]
)
def test_whole_numbers_are_decimal_and_of_32_bits(text):
    with pytest.raises(ValueError, match="no whole number of 32 bits") as caught:
        integer(text)
    assert len(one_line(caught.value)) < 200


@given(st.integers(1 - 2**31, 2**31 - 1))
def test_whole_numbers_are_read(number):
    assert integer(f" {number} ") == number


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "-1e10", "9" * 400])
def test_numbers_are_finite_and_within_32_bits(text):
    with pytest.raises(ValueError, match="not finite, or beyond 32 bits"):
        real(text)


@pytest.mark.parametrize("text", ["/etc/passwd", "../a.jpg", "a/../../b.jpg", ".."])
def test_paths_stay_in_their_folder(text):
    with pytest.raises(ValueError, match="leads out of its folder"):
        inner_path(text)
    assert inner_path("a/b..c/.d") == "a/b..c/.d"


def test_a_missing_image_of_a_long_name_is_shown_in_part(tmp_path):
    rows = kaggle(tmp_path / "cars")
    changed(2, lambda line: "x" * 5000 + line)(tmp_path / "cars" / "anno_test.csv")
    assert len(rows) == 11
    with pytest.raises(
        ValueError, match=r"anno_test\.csv names 6 images, of which 1 .*xxx\.\.\.$"
    ) as caught:
        find_cars196(tmp_path / "cars")
    assert len(one_line(caught.value)) < 700


def test_a_long_line_is_shown_in_part(tmp_path):
    (tmp_path / "a.txt").write_text(f"1 a\nx {'b ' * 5000}c\n")
    with pytest.raises(
        ValueError, match=r"a\.txt, line 2: 'x b b .*\.\.\.' is in the place of a whole"
    ) as caught:
        read_table(tmp_path / "a.txt", (integer, inner_path))
    assert len(one_line(caught.value)) < 400


def changed(line, new):
    """Replace a line, counted from 1."""

    def change(path):
        lines = path.read_text().splitlines()
        lines[line - 1] = new(lines[line - 1])
        path.write_text("\n".join(lines))

    return change


def repeated(line):
    """Repeat a line at the end."""

    def repeat(path):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, lines[line - 1]]))

    return repeat


@pytest.mark.parametrize(
    ("find", "make", "file", "spoil", "words"),
    [
        (
            find_cub200,
            birds,
            "images.txt",
            changed(3, lambda x: "9 ../../etc/passwd"),
            "line 3: .*leads out",
        ),
        (find_cub200, birds, "images.txt", changed(3, lambda x: "9 /etc/passwd"), "line 3: .*leads out"),
        (find_cub200, birds, "images.txt", repeated(2), "line 13: '8' is in line 2 too"),
        (
            find_cub200,
            birds,
            "images.txt",
            changed(2, lambda x: "8 001.Black_Auk/Black_Auk_0000.jpg"),
            "line 2: ",
        ),
        (
            find_cub200,
            birds,
            "image_class_labels.txt",
            changed(1, lambda x: f"18 {10**30}"),
            "line 1: .*32 bits",
        ),
        (find_cub200, birds, "image_class_labels.txt", repeated(4), "line 13: '15' is in line 4 too"),
        (
            find_cub200,
            birds,
            "bounding_boxes.txt",
            changed(5, lambda x: "11 1 2 inf 3"),
            "line 5: .*not finite",
        ),
        (
            find_sop,
            products,
            "Ebay_test.txt",
            changed(3, lambda x: "8 4 1 ../x.JPG"),
            "line 3: .*leads out",
        ),
        (find_sop, products, "Ebay_test.txt", repeated(3), "line 6: .*is in line 3 too"),
        (
            find_sop,
            products,
            "Ebay_train.txt",
            changed(2, lambda x: f"1 {10**20} 1 a"),
            "line 2: .*32 bits",
        ),
        (find_cars196, kaggle, "anno_train.csv", repeated(1), "line 6: .*is in line 1 too"),
        (
            find_cars196,
            kaggle,
            "anno_test.csv",
            changed(2, lambda x: "/a.jpg,1,2,3,4,1"),
            "line 2: .*leads out",
        ),
        (
            find_cars196,
            kaggle,
            "anno_test.csv",
            changed(2, lambda x: "00002.jpg,1,2,3,4"),
            "line 2: .*in the place",
        ),
    ],
)
def test_a_slip_in_a_table_is_named_with_its_line(find, make, file, spoil, words, tmp_path):
    make(tmp_path)
    spoil(tmp_path / file)
    with pytest.raises(ValueError, match=f"{file}, {words}") as caught:
        find(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("find", "make", "files"),
    [
        (find_cub200, birds, ("images.txt", "image_class_labels.txt", "bounding_boxes.txt")),
        (find_sop, products, ("Ebay_train.txt", "Ebay_test.txt")),
        (find_cars196, kaggle, ("anno_train.csv", "anno_test.csv", "names.csv")),
    ],
)
def test_tables_of_windows_are_read_alike(find, make, files, tmp_path):
    make(tmp_path)
    expected = find(tmp_path)
    for file in files:
        text = (tmp_path / file).read_text()
        (tmp_path / file).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    found = find(tmp_path)
    assert rows_of(found) == rows_of(expected)
    assert found.class_names == expected.class_names


def test_an_image_that_a_table_names_is_a_regular_file(tmp_path):
    rows = products(tmp_path)
    rows[1].path.unlink()
    os.mkfifo(rows[1].path)
    with pytest.raises(ValueError, match=r"Ebay_train\.txt, line 3: .* is a FIFO, not a regular file"):
        find_sop(tmp_path)


def test_a_name_in_two_class_folders_is_refused(tmp_path):
    rows = kaggle(tmp_path, "")
    other = rows[0].path.parent.parent / "D" / rows[0].path.name
    other.write_bytes(rows[0].path.read_bytes())
    with pytest.raises(ValueError, match=r"anno_train\.csv, line 1: both .* have this name"):
        find_cars196(tmp_path)


# ------------------------------------------------------------------------ without boxes, without names


def test_cub_without_boxes_is_read_whole_and_not_cropped(tmp_path, monkeypatch):
    monkeypatch.setitem(protocols.EXPECTED, "cub200", Expected(Count(2, 6), Count(2, 6)))
    rows = birds(tmp_path)
    (tmp_path / "bounding_boxes.txt").unlink()
    source = find_cub200(tmp_path)
    assert source.boxes is None
    assert sorted(rows_of(source)) == sorted(row._replace(box=None) for row in rows)
    assert len(load("cub200", str(tmp_path), None, 0).train.labels) == 6
    with pytest.raises(ValueError, match=r"data\.crop=bbox.*without bounding_boxes\.txt"):
        load("cub200", str(tmp_path), None, 0, crop="bbox")


def test_cars_without_names_have_those_of_their_folders(tmp_path):
    kaggle(tmp_path)
    (tmp_path / "names.csv").unlink()
    assert find_cars196(tmp_path).class_names == {1: "Z 1", 2: "B Coupe 2000", 3: "A C-V", 4: "D"}


def test_cars_without_boxes_are_read_whole_and_not_cropped(tmp_path):
    rows = kaggle(tmp_path)
    for part in ("train", "test"):
        lines = (tmp_path / f"anno_{part}.csv").read_text().splitlines()
        fields = [line.split(",") for line in lines]
        (tmp_path / f"anno_{part}.csv").write_text("".join(f"{x[0]},{x[-1]}\n" for x in fields))
    source = find_cars196(tmp_path)
    assert source.boxes is None
    assert sorted(rows_of(source)) == sorted(row._replace(box=None) for row in rows)
    with pytest.raises(ValueError, match=r"data\.crop=bbox.*have no boxes"):
        load("cars196", str(tmp_path), None, 0, crop="bbox", test_classes="1")


@pytest.mark.parametrize("make", [one_folder, two_folders])
def test_annotations_of_matlab_without_boxes(make, tmp_path):
    rows = make(tmp_path)
    for file in tmp_path.rglob("*anno*.mat"):
        content = scipy.io.loadmat(file)
        table = content["annotations"]
        kept = [name for name in table.dtype.names if not name.startswith("bbox")]
        fields = np.zeros(table.shape, [(name, "O") for name in kept])
        for name in kept:
            fields[name] = table[name]
        names = {"class_names": content["class_names"]} if "class_names" in content else {}
        scipy.io.savemat(file, {"annotations": fields} | names)
    source = find_cars196(tmp_path)
    assert source.boxes is None
    assert sorted(rows_of(source)) == sorted(row._replace(box=None) for row in rows)
    assert "bbox_x1" in source.layout


# ------------------------------------------------------------------------------------ files of MATLAB


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not of level 5"),
        (b"<html>".ljust(500), "not of level 5"),
        (b"MATLAB 7.3 MAT-file".ljust(126) + b"IM", "save it with -v7"),
        (
            b"".ljust(126) + b"IM" + struct.pack("<II", 14, 2**31),
            "2,147,483,648 bytes is in the place of 0",
        ),
        (b"".ljust(126) + b"IM" + struct.pack("<II", 15, 4) + b"abcd", "incorrect header check"),
    ],
)
def test_what_is_no_matlab_file_is_told(content, words, tmp_path):
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.mat is no MATLAB file that can be read: .*{words}"):
        read_mat(tmp_path / "a.mat", ())


def test_what_inflates_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("pddm_jax.data.layouts.mat.LARGEST", 2**16)
    packed = zlib.compress(bytes(2**24))
    (tmp_path / "a.mat").write_bytes(b"".ljust(126) + b"IM" + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match=r"what is compressed in it has more than 65,536 bytes"):
        read_mat(tmp_path / "a.mat", ())
