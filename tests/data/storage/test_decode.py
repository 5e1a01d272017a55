"""Decoding: modes, transparency, orientation, boxes, and corrupt images."""

import numpy as np
import pytest
from PIL import Image

from pddm_jax.data.layouts.folder import find_folder
from pddm_jax.data.storage.decode import check, decode
from tests.helpers.builders import HEIGHT, WIDTH, encoded, picture, pixels


def test_grey_palette_and_sixteen_bits_become_rgb():
    grey = pixels(0)[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey))), expected)
    wide = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(wide))), expected)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(wide), "TIFF")), expected)
    by_hand = b"P5 24 18 65535\n" + wide.astype(">u2").tobytes()
    np.testing.assert_array_equal(decode(by_hand), expected)
    bits = grey > 127
    found = decode(encoded(Image.fromarray(bits)))
    np.testing.assert_array_equal(found, np.repeat(255 * bits[..., None].astype(np.uint8), 3, axis=2))
    colours = np.array([[255, 0, 0], [0, 9, 255], [1, 2, 3]], np.uint8)
    palette = Image.fromarray(grey % 3).convert("P")
    palette.putpalette(colours.tobytes())
    np.testing.assert_array_equal(decode(encoded(palette, "GIF")), colours[grey % 3])


def test_what_is_transparent_lies_on_white():
    colour, alpha = pixels(1), pixels(2)[..., :1]
    found = decode(encoded(Image.fromarray(np.concatenate([colour, alpha], axis=2))))
    share = alpha / 255
    assert np.abs(found - (share * colour + (1 - share) * 255)).max() <= 1
    palette = Image.fromarray(colour[..., 0] % 2).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    found = decode(encoded(palette, transparency=1))
    expected = np.array([[10, 20, 30], [255, 255, 255]], np.uint8)[colour[..., 0] % 2]
    np.testing.assert_array_equal(found, expected)


def test_a_cmyk_jpeg_becomes_rgb():
    plain = np.full((16, 16, 4), (255, 0, 51, 0), np.uint8)  # no red, all green, a fifth less blue
    found = decode(encoded(Image.fromarray(plain, "CMYK"), "JPEG", quality=100))
    assert np.abs(found.astype(int) - (0, 255, 204)).max() <= 6


@pytest.mark.parametrize("orientation", range(9))
def test_an_image_is_turned_as_its_exif_says(orientation):
    stored = pixels(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(stored), exif=exif)
    turned = {  # by the definition: where row 0 and column 0 of what is stored are to be seen
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.swapaxes(0, 1),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(stored, 1),
    }.get(orientation, stored)
    np.testing.assert_array_equal(decode(data), turned)
    # A box counts in the pixels as they are stored.
    cut = encoded(Image.fromarray(stored[2:7, 3:13]), exif=exif)
    np.testing.assert_array_equal(decode(data, np.array([3, 2, 13, 7])), decode(cut))


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what is broken
def test_a_broken_exif_does_not_matter():
    data = encoded(Image.fromarray(pixels(4)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff broken")
    assert decode(data).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((3, 2, 13, 7), slice(2, 7), slice(3, 13)),
        ((-5, -5, 4, 99), slice(0, HEIGHT), slice(0, 4)),
        ((20, 17, 99, 99), slice(17, HEIGHT), slice(20, WIDTH)),
        ((0, 0, 1, 1), slice(0, 1), slice(0, 1)),
    ],
)
def test_a_box_is_cut_out_as_far_as_it_lies_within(box, rows, columns):
    found = decode(encoded(Image.fromarray(pixels(5))), np.array(box))
    np.testing.assert_array_equal(found, pixels(5)[rows, columns])


@pytest.mark.parametrize("box", [(3, 2, 3, 7), (5, 5, 4, 9), (24, 0, 30, 9), (-9, 0, 0, 9), (0, 18, 9, 20)])
def test_an_empty_box_is_refused(box):
    with pytest.raises(ValueError, match=r"24 x 18.*box"):
        decode(encoded(Image.fromarray(pixels(5))), np.array(box))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF"])
def test_a_truncated_image_is_refused(kind):
    data = encoded(Image.fromarray(pixels(6, 64, 64)), kind)
    for keep in (0, 1, 4, 20, 60, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ValueError, match="could not be decoded"):
            decode(data[:keep])


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what it finds
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_corrupt_images_are_read_or_refused_by_the_one_error(kind):
    rng = np.random.default_rng(7)
    data = encoded(Image.fromarray(pixels(8)), kind)
    for _ in range(60):
        spoilt = bytearray(data)
        for place in rng.integers(0, min(len(data), 400), 3):
            spoilt[place] = rng.integers(256)
        try:
            found = decode(bytes(spoilt))
        except ValueError:
            continue
        assert found.shape[2] == 3


def test_floats_have_no_black_and_white():
    with pytest.raises(ValueError, match="floating-point"):
        decode(encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"))


def test_check_names_what_cannot_be_decoded(tmp_path):
    for n in range(6):
        picture(tmp_path / "a" / f"{n}.jpg", n)
    broken, empty = tmp_path / "a" / "1.jpg", tmp_path / "a" / "4.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    empty.write_bytes(b"")
    source = find_folder(tmp_path)
    (tmp_path / "a" / "5.jpg").unlink()
    found = check(source.images)
    assert [*found] == [1, 4, 5]
    for error, path in zip(found.values(), (broken, empty, tmp_path / "a" / "5.jpg"), strict=True):
        assert str(path) in str(error)
    with pytest.raises(ValueError, match=str(broken)):
        source.images[1]
    assert [*check(source.images.take(np.array([0, 4, 2])))] == [1]
