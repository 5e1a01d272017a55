"""Tables and lists in text files: an error names the file and the line."""

import os
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pddm_jax.data.layouts.cars196 import find_cars196
from pddm_jax.data.layouts.cub200 import find_cub200
from pddm_jax.data.layouts.mat import read_mat
from pddm_jax.data.layouts.sop import find_sop
from pddm_jax.data.layouts.tables import inner_path, integer, read_table, real
from pddm_jax.data.layouts.wnids import read_ground_truth, read_wnids
from pddm_jax.system.regular import read_bytes, read_lines, read_text
from tests.helpers.builders import birds, changed, kaggle, one_line, products, rows_of


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_end_as_they_do_anywhere_and_may_begin_with_a_mark(end, mark, tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(mark + end.join([" 1 é", "", "2\u2028b c ", ""]).encode())
    assert read_lines(file) == [(1, "1 é"), (3, "2\u2028b c")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a\nb\n".encode("utf-16"), "line 1, is not text: byte 0xff is not UTF-8"),
        ("a\nb\n".encode("utf-16-le"), "line 1 holds a NUL byte"),
        (b"a\n\xe9\n", "line 2, is not text: byte 0xe9 is not UTF-8"),
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
    with pytest.raises(ValueError, match="large is too large: 1,073,741,825 bytes"):
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
    with pytest.raises(ValueError, match="is not a 32-bit integer") as caught:
        integer(text)
    assert len(one_line(caught.value)) < 200


@given(st.integers(1 - 2**31, 2**31 - 1))
def test_whole_numbers_are_read(number):
    assert integer(f" {number} ") == number


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "-1e10", "9" * 400])
def test_numbers_are_finite_and_within_32_bits(text):
    with pytest.raises(ValueError, match="not a finite number within 32 bits"):
        real(text)


@pytest.mark.parametrize("text", ["/etc/passwd", "../a.jpg", "a/../../b.jpg", ".."])
def test_paths_stay_in_their_folder(text):
    with pytest.raises(ValueError, match="leads out of its folder"):
        inner_path(text)
    assert inner_path("a/b..c/.d") == "a/b..c/.d"


def test_a_long_line_is_shown_in_part(tmp_path):
    (tmp_path / "a.txt").write_text(f"1 a\nx {'b ' * 5000}c\n")
    with pytest.raises(
        ValueError, match=r"a\.txt, line 2: found 'x b b .*\.\.\.', expected an integer, a path"
    ) as caught:
        read_table(tmp_path / "a.txt", (integer, inner_path))
    assert len(one_line(caught.value)) < 400


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
        (find_cub200, birds, "images.txt", repeated(2), "line 13: '8' is already in line 2"),
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
            "line 1: .*32-bit",
        ),
        (find_cub200, birds, "image_class_labels.txt", repeated(4), "line 13: '15' is already in line 4"),
        (
            find_cub200,
            birds,
            "bounding_boxes.txt",
            changed(5, lambda x: "11 1 2 inf 3"),
            "line 5: .*not a finite",
        ),
        (
            find_sop,
            products,
            "Ebay_test.txt",
            changed(3, lambda x: "8 4 1 ../x.JPG"),
            "line 3: .*leads out",
        ),
        (find_sop, products, "Ebay_test.txt", repeated(3), "line 6: .*is already in line 3"),
        (
            find_sop,
            products,
            "Ebay_train.txt",
            changed(2, lambda x: f"1 {10**20} 1 a"),
            "line 2: .*32-bit",
        ),
        (find_cars196, kaggle, "anno_train.csv", repeated(1), "line 6: .*is already in line 1"),
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
            "line 2: .*expected a path",
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
