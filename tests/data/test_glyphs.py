"""Glyphs: rendering, classes and cache."""

import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from pddm_jax.data import (
    glyphs,
    load,
)


@pytest.fixture(scope="session")
def split(glyph_root):
    return glyphs.load(str(glyph_root), None, 0)


@pytest.fixture(scope="session")
def rendered(glyph_root, split):
    """Images [n, 32, 32], labels [n], the lowest code point of each class, all with their classes."""
    (path,) = glyph_root.glob("glyphs-32-*")
    with np.load(path) as stored:
        characters = stored["characters"]
        lowest = [characters[characters[:, 1] == label, 0].min() for label in np.unique(characters[:, 1])]
        return stored["images"][..., 0], stored["labels"], np.array(lowest), characters


def test_sixteen_faces_exist():
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    assert len({*glyphs.FACES}) == 16
    for face in glyphs.FACES:
        assert (fonts / f"{face}.ttf").is_file()


def test_a_few_thousand_classes_each_drawn_by_half_of_the_faces_or_more(rendered):
    images, labels, code_points, _ = rendered
    assert images.shape[1:] == (32, 32)
    assert images.dtype == np.uint8
    assert 2000 < len(code_points) < 4000
    assert (np.unique(labels) == np.arange(len(code_points))).all()
    counts = np.bincount(labels)
    assert counts.min() >= 8
    assert counts.max() == 16


def test_no_drawing_is_blank(rendered):
    assert rendered[0].any(axis=(1, 2)).all()
    assert ord(" ") not in rendered[2]


def test_the_ink_is_centred(rendered):
    ink = rendered[0] > 0
    for axis in (1, 2):
        line = ink.any(axis=3 - axis)
        before, after = line.argmax(axis=1), line[:, ::-1].argmax(axis=1)
        off = np.abs(before - after)
        assert (off <= 2).all(), f"{(off > 2).sum()} of {len(off)} are off by up to {off.max() / 2} pixels"


def test_characters_that_look_alike_are_one_class(rendered):
    code_points = {*rendered[2].tolist()}
    assert {*map(ord, "AB08")} <= code_points
    alike = [
        unicodedata.lookup(f"{name} CAPITAL LETTER {x}")
        for name, x in (("GREEK", "ALPHA"), ("CYRILLIC", "A"))
    ]
    assert not {*map(ord, alike)} & code_points


def test_no_drawing_is_in_two_classes(rendered):
    images, labels, *_ = rendered
    classes = {}
    for image, label in zip(images, labels, strict=True):
        classes.setdefault(image.tobytes(), set()).add(int(label))
    assert all(len(labels) == 1 for labels in classes.values())


def test_classes_are_named_by_all_of_their_characters(split, rendered):
    names = split.train.class_names | split.test.class_names
    (of_a,) = (name for name in names.values() if name.startswith("A LATIN CAPITAL LETTER A"))
    assert {"Α GREEK CAPITAL LETTER ALPHA", "А CYRILLIC CAPITAL LETTER A"} < {*of_a.split(" / ")}
    assert "/ SOLIDUS" in "".join(names.values())
    for label, name in names.items():
        of_class = rendered[3][rendered[3][:, 1] == label, 0]
        assert glyphs.character_names(name) == [unicodedata.name(chr(c), "") for c in of_class]
        assert [part[0] for part in name.split(" / ")] == [chr(c) for c in of_class]


def test_training_and_test_classes_are_disjoint_halves_of_all(split, rendered):
    train, test = ({*np.unique(part.labels).tolist()} for part in (split.train, split.test))
    assert not train & test
    assert train | test == {*range(len(rendered[2]))}
    assert 0 <= len(train) - len(test) <= 1
    assert train == {*split.train.class_names}
    assert test == {*split.test.class_names}
    assert len(split.train.labels) + len(split.test.labels) == len(rendered[1])
    for part in (split.train, split.test):
        every = [rendered[0][rendered[1] == label] for label in np.unique(part.labels)[:5]]
        ours = [part.images[part.labels == label][..., 0] for label in np.unique(part.labels)[:5]]
        for a, b in zip(every, ours, strict=True):
            np.testing.assert_array_equal(a, b)


def test_the_split_is_drawn_by_seed(split, glyph_root):
    again, other = (load("glyphs", str(glyph_root), 32, seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.train.labels, split.train.labels)
    np.testing.assert_array_equal(again.train.images, split.train.images)
    shared = {*other.train.class_names} & {*split.train.class_names}
    assert 0.4 < len(shared) / len(split.train.class_names) < 0.6
    assert "seed 1" in other.description


@pytest.mark.parametrize("size", [-1, 0, 7])
def test_too_small_glyphs_are_refused(size, tmp_path):
    with pytest.raises(ValueError, match=rf"image_size.* 8 .*{size}"):
        glyphs.load(str(tmp_path), size, 0)
    assert not [*tmp_path.iterdir()]


@pytest.fixture
def renderings(monkeypatch, rendered):
    """Rendering made cheap; the list grows with each."""
    made = []

    def render(size):
        made.append(size)
        few = rendered[3][:, 1] <= rendered[1][19]
        return rendered[0][:20, :size, :size, None], rendered[1][:20], rendered[3][few]

    monkeypatch.setattr(glyphs, "render", render)
    return made


def everything(split):
    return [x for part in (split.train, split.test) for x in (part.images, part.labels, part.class_names)]


def assert_equal(a, b):
    for x, y in zip(everything(a), everything(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_the_cache_is_written_once_and_read_back_equal(renderings, tmp_path):
    first, second = (glyphs.load(str(tmp_path), 8, 0) for _ in range(2))
    assert renderings == [8]
    assert_equal(first, second)
    assert len([*tmp_path.iterdir()]) == 1
    glyphs.load(str(tmp_path), 9, 0)
    assert renderings == [8, 9]


def test_the_cache_is_the_users_own_by_default(renderings, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    glyphs.load(None, 8, 0)
    assert len([*(tmp_path / "caches" / "pddm_jax").iterdir()]) == 1


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99], ids=str)
def test_a_truncated_cache_is_made_anew(renderings, tmp_path, keep):
    whole = glyphs.load(str(tmp_path), 8, 0)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    assert_equal(glyphs.load(str(tmp_path), 8, 0), whole)
    assert renderings == [8, 8]
    assert path.read_bytes() == content


def test_a_cache_of_other_arrays_is_made_anew(renderings, tmp_path):
    whole = glyphs.load(str(tmp_path), 8, 0)
    (path,) = tmp_path.iterdir()
    np.savez(path, images=whole.train.images)
    assert_equal(glyphs.load(str(tmp_path), 8, 0), whole)


@pytest.mark.parametrize("flip", [0x01, 0x08, 0xFF])
def test_a_cache_with_a_flipped_byte_is_made_anew(renderings, tmp_path, flip):
    whole = glyphs.load(str(tmp_path), 8, 0)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    unread = []
    # The directory at the end, and the start of the first array with its headers.
    for place in [*range(200), *range(len(content) - 250, len(content))]:
        path.write_bytes(content[:place] + bytes([content[place] ^ flip]) + content[place + 1 :])
        try:
            assert_equal(glyphs.load(str(tmp_path), 8, 0), whole)
        except Exception as error:
            unread.append((place, repr(error)))
    assert not unread, f"{len(unread)} places, such as {unread[:3]}"


def test_a_cache_that_cannot_be_written_whole_is_not_left(renderings, tmp_path, monkeypatch):
    def half(path, **arrays):
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(OSError, match="disk full"):
        glyphs.load(str(tmp_path), 8, 0)
    assert not [*tmp_path.iterdir()]


def test_a_folder_of_images_is_not_taken_for_the_cache(tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "0.PNG").touch()
    with pytest.raises(
        ValueError, match=r"data\.root: .* holds images, for example class/0\.PNG, but glyphs"
    ):
        glyphs.load(str(tmp_path), 8, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["class"]
