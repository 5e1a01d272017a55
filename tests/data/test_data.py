"""The two data sets, the P x K sampler, and the batches."""

import gzip
import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pddm_jax.data import (
    Images,
    PKSampler,
    fashion_mnist,
    glyphs,
    hold_out,
    load,
    make_transform,
    ordered_batches,
    train_batches,
)
from pddm_jax.data.transforms import center, jittered, random_box, resized, shifted

# ---------------------------------------------------------------------------------------------- glyphs


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


# --------------------------------------------------------------------------------------- fashion_mnist

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
        (lambda content: spoil(content, 2, b"\x0d"), "no IDX file"),
        (lambda content: spoil(content, 3, b"\x02"), "no IDX file"),
        (lambda content: b"<html>not found</html>", "no IDX file"),
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


def test_no_data_in_any_place_of_their_own_is_told(python, tmp_path):
    code = (
        "from pathlib import Path; from pddm_jax.data import fashion_mnist; "
        "fashion_mnist.SYSTEM_ROOT = Path('/nowhere'); fashion_mnist.load(None, None, 0)"
    )
    status, _, err = python("-c", code, TFDS_DATA_DIR=str(tmp_path))
    assert status == 1
    assert err.splitlines()[-1].startswith("FileNotFoundError: no Fashion-MNIST in /nowhere")


def test_unknown_data_lists_what_exists():
    with pytest.raises(ValueError, match=r"data\.name.*fashion_mnist.*glyphs.*'cars'"):
        load("cars", None, None, 0)


# --------------------------------------------------------------------------------------------- sampler

P, K = 5, 4
SIZES = [1, 2, 3, 4, 5, 6, 9, 12, 1, 7]  # of classes 0, 10, 20, ...
LABELS = np.random.default_rng(3).permutation(np.repeat(10 * np.arange(len(SIZES)), SIZES))


def sampler(batches, seed=7, index=0, count=1, labels=LABELS, p=P, k=K):
    return PKSampler(labels, p, k, batches, seed, index, count)


def references(source):
    return [source[slot] for slot in range(len(source))]


@pytest.mark.parametrize("number", [*range(40), 10**9])
def test_a_batch_has_p_classes_of_k_images(number):
    batch = sampler(range(number, number + 1)).batch(number).reshape(P, K)
    classes = LABELS[batch]
    assert (classes == classes[:, :1]).all()
    assert len({*classes[:, 0]}) == P
    for label, images in zip(classes[:, 0], batch, strict=True):
        size = SIZES[label // 10]
        assert size >= 2
        if size >= K:
            assert len({*images}) == K


def test_a_small_class_is_drawn_with_replacement():
    drawn = [images for n in range(60) for images in sampler(range(1)).batch(n).reshape(P, K)]
    both = [{*images.tolist()} for images in drawn if LABELS[images[0]] == 10]
    assert {len(images) for images in both} == {1, 2}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_shares_of_processes_make_up_the_batch(count):
    batches = range(2, 9)
    shares = [references(sampler(batches, index=i, count=count)) for i in range(count)]
    local = P * K // count
    found = [r for n in range(len(batches)) for share in shares for r in share[n * local : (n + 1) * local]]
    images = np.concatenate([sampler(batches).batch(n) for n in batches])
    assert found == [*zip(images.tolist(), range(2 * P * K, 9 * P * K), strict=True)]


def test_the_stream_does_not_depend_on_its_start_or_on_the_order_of_access():
    whole = sampler(range(9))
    expected = references(whole)
    assert references(sampler(range(4, 9))) == expected[4 * P * K :]
    assert references(sampler(range(9)).since(4)) == expected[4 * P * K :]
    order = np.random.default_rng(0).permutation(len(whole))
    assert [whole[slot] for slot in order] == [expected[slot] for slot in order]


def test_seeds_and_batches_differ():
    batches = [tuple(sampler(range(1), seed=seed).batch(n)) for seed in range(5) for n in range(5)]
    assert len({*batches}) == 25
    assert sampler(range(1), seed=1).batch(3).tolist() == sampler(range(1), seed=1).batch(3).tolist()


def test_classes_and_images_are_drawn_uniformly():
    labels = np.repeat(np.arange(20), 10)
    draws = np.concatenate([sampler(range(1), labels=labels).batch(n).reshape(P, K) for n in range(2000)])
    classes = np.bincount(labels[draws[:, 0]], minlength=20)
    assert np.abs(classes - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)
    images = np.bincount(draws.ravel(), minlength=200)
    assert np.abs(images - 200).max() < 5 * np.sqrt(200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p": 1}, "at least 2, got 1 and 4"),
        ({"k": 1}, "at least 2, got 5 and 1"),
        ({"p": 9}, "classes_per_batch is 9, but of the classes for training only 8"),
        ({"count": 3}, "20 images does not divide over 3 processes"),
        ({"labels": np.arange(30)}, "only 0 have"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sampler(range(1), **arguments)


# -------------------------------------------------------------------------------------------- pipeline


def shifted_by_loop(image, dy, dx):
    moved = np.zeros_like(image)
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if 0 <= y + dy < image.shape[0] and 0 <= x + dx < image.shape[1]:
                moved[y + dy, x + dx] = image[y, x]
    return moved


@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]), st.data())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_shifted_is_the_loop(height, width, channels, data):
    image = np.arange(1, height * width * channels + 1, dtype=np.uint8).reshape(height, width, channels)
    before = image.copy()
    dy, dx = (data.draw(st.integers(-side, side)) for side in (height, width))
    np.testing.assert_array_equal(shifted(image, dy, dx), shifted_by_loop(image, dy, dx))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(("dy", "dx"), [(4, 0), (-4, 0), (0, 4), (0, -4), (9, 9), (-9, -9)])
def test_shifted_out_of_the_picture_is_black(dy, dx):
    image = np.full((3, 3, 1), 255, np.uint8)
    np.testing.assert_array_equal(shifted(image, dy, dx), np.zeros_like(image))


SIDE = 5
# Image n holds the bytes n + 1 in a frame of zeros, so a shift by one pixel loses nothing.
NUMBERED = Images(
    np.pad(
        np.tile(np.arange(1, len(LABELS) + 1, dtype=np.uint8)[:, None, None], (1, 3, 3)),
        ((0, 0), (1, 1), (1, 1)),
    )[..., None],
    LABELS.astype(np.int32),
    {},
)


def batches_of(start, stop, shift=1, seed=7, index=0, count=1, workers=0):
    source = sampler(range(start, stop), seed=seed, index=index, count=count)
    transform = make_transform("shift", None, shift, 1.0, False, 1.0, 0.0)
    return [*train_batches(NUMBERED, source, transform, seed, workers)]


def assert_same_batches(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_batches_hold_the_samplers_images_with_their_labels():
    found = batches_of(3, 9)
    assert len(found) == 6
    for number, batch in enumerate(found, 3):
        assert batch.images.shape == (P * K, SIDE, SIDE, 1)
        assert batch.images.dtype == np.uint8
        images = batch.images.max(axis=(1, 2, 3)).astype(int) - 1
        np.testing.assert_array_equal(images, sampler(range(1)).batch(number))
        np.testing.assert_array_equal(batch.labels, LABELS[images])


def test_batches_are_a_function_of_seed_and_step():
    whole = batches_of(0, 8)
    assert_same_batches(batches_of(0, 8), whole)
    assert_same_batches(batches_of(5, 8), whole[5:])
    other = batches_of(0, 8, seed=8)
    assert any((a.labels != b.labels).any() for a, b in zip(whole, other, strict=True))


def test_batches_of_processes_make_up_the_batches_of_one():
    shares = [batches_of(2, 6, index=i, count=4) for i in range(4)]
    for whole, *parts in zip(batches_of(2, 6), *shares, strict=True):
        np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), whole.images)
        np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)


def test_images_are_moved_by_up_to_shift_in_all_directions():
    moves = {
        (dy, dx)
        for batch in batches_of(0, 30)
        for image in batch.images
        for dy, dx in [tuple(np.argwhere(image[..., 0])[0] - 1)]
    }
    assert moves == {(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    for batch in batches_of(0, 2, shift=0):
        images = batch.images.max(axis=(1, 2, 3)).astype(int) - 1
        np.testing.assert_array_equal(batch.images, NUMBERED.images[images])


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_batches_do_not_depend_on_the_number_of_workers(workers):
    assert_same_batches(batches_of(2, 9, workers=workers), batches_of(2, 9))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 20])
def test_ordered_batches_hold_all_images_in_order(n, count):
    images = np.arange(1, n + 1, dtype=np.uint8)[:, None, None, None]
    transform = make_transform("shift", None, 0, 1.0, False, 1.0, 0.0)
    shares = [[*ordered_batches(images, transform, 8, 0, i, count)] for i in range(count)]
    assert all(len(share) == -(-n // 8) for share in shares)
    whole = np.concatenate([np.concatenate(parts) for parts in zip(*shares, strict=True)]).ravel()
    assert whole[:n].tolist() == [*range(1, n + 1)]
    assert (whole[n:] == n).all()


# ---------------------------------------------------------------------------------------- transforms


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.05, 1), st.integers(0, 2**32))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_a_random_box_lies_within_the_image(height, width, min_crop_area, seed):
    left, top, right, bottom = random_box(height, width, min_crop_area, np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_random_boxes_have_the_areas_and_aspects_that_are_asked_for():
    rng = np.random.default_rng(0)
    boxes = np.array([random_box(300, 400, 0.2, rng) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = width * height / (300 * 400), width / height
    assert 0.19 < area.min() < 0.25
    assert 0.9 < area.max() <= 1
    assert 0.73 < aspect.min() < 0.78
    assert 1.28 < aspect.max() < 1.36
    corners = boxes[:, :2] / np.maximum([400, 300] - np.stack([width, height], 1), 1)
    np.testing.assert_allclose(corners.mean(axis=0), 0.5, atol=0.03)


def test_an_image_too_narrow_for_any_box_gives_its_middle():
    assert random_box(10, 1000, 1.0, np.random.default_rng(0)) == (495, 0, 505, 10)
    assert center(20, 10, 0.5) == (2, 7, 7, 12)
    assert center(3, 1000, 0.1) == (499, 1, 500, 2)


def bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """The image at the middles of size x size pixels, between its own, in float64."""
    found = np.zeros((size, size, image.shape[-1]))
    for row in range(size):
        for column in range(size):
            weights = 0.0
            for y in range(image.shape[0]):
                for x in range(image.shape[1]):
                    at_y = np.clip((row + 0.5) * image.shape[0] / size - 0.5, 0, image.shape[0] - 1)
                    at_x = np.clip((column + 0.5) * image.shape[1] / size - 0.5, 0, image.shape[1] - 1)
                    weight = max(0, 1 - abs(at_y - y)) * max(0, 1 - abs(at_x - x))
                    found[row, column] += weight * image[y, x]
                    weights += weight
            assert weights == pytest.approx(1)
    return found


@pytest.mark.parametrize("size", [5, 8, 20])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_box_is_cut_out_and_read_between_its_pixels(size, channels):
    image = np.random.default_rng(0).integers(0, 256, (12, 16, channels), dtype=np.uint8)
    found = resized(image, (4, 2, 12, 11), size)
    np.testing.assert_allclose(found, bilinear(image[2:11, 4:12], size), atol=1)
    if size == 8:
        np.testing.assert_array_equal(resized(image, (4, 2, 12, 10), size), image[2:10, 4:12])


def test_a_box_that_shrinks_much_is_averaged_over_the_area_of_each_pixel():
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    blocks = image.reshape(6, 5, 6, 5, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resized(image, (0, 0, 30, 30), 6), blocks, atol=1)


def test_colours_change_by_the_factors_that_were_drawn():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for seed in range(20):
        saturation, *gains = np.random.default_rng(seed).uniform(0.6, 1.4, 4)
        found = jittered(image, 0.4, np.random.default_rng(seed))
        for y in range(5):
            for x in range(7):
                grey = sum(float(value) for value in image[y, x]) / 3
                for channel in range(3):
                    value = gains[channel] * (grey + saturation * (image[y, x, channel] - grey))
                    assert abs(found[y, x, channel] - min(max(value, 0), 255)) < 1
    grey_image, rng = image[..., :1], np.random.default_rng(3)
    gain = np.random.default_rng(3).uniform(0.6, 1.4, 2)[1]
    np.testing.assert_allclose(
        jittered(grey_image, 0.4, rng), np.minimum(gain * grey_image.astype(float), 255), atol=1
    )
    crop = make_transform("crop", 6, 0, 1.0, False, 1.0, 0.4)
    seen = {crop.train(image, np.random.default_rng(seed)).tobytes() for seed in range(5)}
    assert len(seen) == 5
    np.testing.assert_array_equal(
        crop.test(image), make_transform("crop", 6, 0, 1.0, False, 1.0, 0.0).test(image)
    )


def test_training_crops_flip_every_second_image_and_test_crops_none():
    ramp = np.tile(np.arange(0, 200, 2, dtype=np.uint8)[None, :, None], (100, 1, 3))
    transform = make_transform("crop", 20, 0, 0.9, True, 1.25, 0.0)
    rng = np.random.default_rng(0)
    falling = [
        bool((np.diff(transform.train(ramp, rng)[0, :, 0].astype(int)) < 0).all()) for _ in range(400)
    ]
    assert 160 < sum(falling) < 240
    still = make_transform("crop", 20, 0, 0.9, False, 1.25, 0.0)
    assert all((np.diff(still.train(ramp, rng)[0, :, 0].astype(int)) > 0).all() for _ in range(50))
    seen = transform.test(ramp)
    assert seen.shape == (20, 20, 3)
    np.testing.assert_allclose(seen[0, [0, -1], 0], [2 * 11.5, 2 * 87.5], atol=2)  # the middle 80 pixels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("turn", 32, 0, 1.0, True, 1.0, 0.0), r"data\.augment.*'crop', 'shift'.*'turn'"),
        (("shift", 32, -1, 1.0, True, 1.0, 0.0), r"data\.shift.*-1"),
        (("crop", None, 0, 1.0, True, 1.0, 0.0), r"data\.image_size"),
        (("crop", 32, 0, 0.0, True, 1.0, 0.0), r"data\.min_crop_area"),
        (("crop", 32, 0, 1.0, True, 1.0, 1.5), r"data\.color_jitter.*1\.5"),
        (("crop", 32, 0, 0.5, True, 0.5, 0.0), r"data\.resize_crop_ratio"),
    ],
)
def test_transforms_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_transform(*arguments)


def test_classes_that_are_held_out_are_a_share_of_all_and_disjoint():
    rest, held = hold_out(NUMBERED_NAMED, 0.3, seed=1)
    assert len({*held.labels}) == 3
    assert not {*held.labels} & {*rest.labels}
    assert sorted([*rest.labels, *held.labels]) == sorted(LABELS)
    assert {*held.class_names} == {*held.labels}
    for part in (rest, held):
        np.testing.assert_array_equal(part.labels, LABELS[part.images.max(axis=(1, 2, 3)).astype(int) - 1])
    assert {*hold_out(NUMBERED_NAMED, 0.3, seed=2)[1].labels} != {*held.labels}
    for share in (0.01, 0.99):
        with pytest.raises(ValueError, match=r"data\.val_class_fraction"):
            hold_out(NUMBERED_NAMED, share, seed=1)


NUMBERED_NAMED = NUMBERED._replace(class_names={10 * n: str(n) for n in range(len(SIZES))})
