"""RGB pixels of every kind of image, against what the formats define, computed from the raw values."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pddm_jax.data.storage import rgb
from pddm_jax.data.storage.decode import decode
from tests.conftest import ROOT

# ------------------------------------------------------------------- PNG, written by its definition

GREY, COLOR, PALETTE, GREY_ALPHA, COLOR_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, COLOR: 3, PALETTE: 1, GREY_ALPHA: 2, COLOR_ALPHA: 4}
DEPTHS = {
    GREY: (1, 2, 4, 8, 16),
    COLOR: (8, 16),
    PALETTE: (1, 2, 4, 8),
    GREY_ALPHA: (8, 16),
    COLOR_ALPHA: (8, 16),
}
KINDS = [(kind, depth) for kind, depths in DEPTHS.items() for depth in depths]
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rows_of(values, depth):
    """Unfiltered rows of samples, packed from the highest bit on."""
    flat = values.reshape(len(values), -1)
    if depth == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in flat)
    bits = (flat[..., None] >> np.arange(depth - 1, -1, -1) & 1).reshape(len(flat), -1).astype(np.uint8)
    return b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)


def png(values, kind, depth, interlaced=False, **chunks):
    """A PNG of samples [h, w, channels]; chunks by name, in the order given, before the data."""
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    passes = [values[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [values]
    data = b"".join(rows_of(part, depth) for part in passes if part.size)
    before = b"".join(chunk(name.encode(), content) for name, content in chunks.items())
    end = chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + end


def samples(kind, depth, height=11, width=13):
    """Random samples in which a few values are frequent."""
    rng = np.random.default_rng(10 * kind + depth)
    few = rng.integers(0, 2**depth, (4, CHANNELS[kind]))
    values = rng.integers(0, 2**depth, (height, width, CHANNELS[kind]))
    return np.where(rng.random((height, width, 1)) < 0.5, few[rng.integers(0, 4, (height, width))], values)


def on_white(color, alpha):
    """Of color in 0 to 255 and alpha in 0 to 1."""
    return np.broadcast_to(alpha * color + (1 - alpha) * 255, (*color.shape[:2], 3))


def by_definition(values, kind, depth, key=None, palette=None, alphas=None):
    """What is to be seen: samples scaled to 0 to 255, over white."""
    most = 2**depth - 1
    if kind == PALETTE:
        index = values[..., 0]
        return on_white(palette[index], (alphas[index] / 255)[..., None])
    colors = values[..., : 1 if kind in (GREY, GREY_ALPHA) else 3] / most * 255
    if kind in (GREY_ALPHA, COLOR_ALPHA):
        return on_white(colors, values[..., -1:] / most)
    hidden = np.zeros(values.shape[:2], bool) if key is None else (values == np.array(key)).all(axis=2)
    return on_white(colors, 1.0 - hidden[..., None])


def assert_close(found, expected, most=1.01):
    """To rounding: of 16 bits to 8, and of a product with alpha; where it is both, `most` is 2."""
    assert found.dtype == np.uint8
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= most


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), KINDS)
def test_each_kind_of_png(kind, depth, interlaced):
    values, rng = samples(kind, depth), np.random.default_rng(3)
    chunks, told = {}, {}
    if kind == PALETTE:
        told["palette"] = rng.integers(0, 256, (2**depth, 3))
        told["alphas"] = np.full(2**depth, 255)
        chunks["PLTE"] = told["palette"].astype(np.uint8).tobytes()
    most = 2 if depth == 16 and kind in (GREY_ALPHA, COLOR_ALPHA) else 1.01
    found = decode(png(values, kind, depth, interlaced, **chunks))
    assert_close(found, by_definition(values, kind, depth, **told), most)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "depth"), [x for x in KINDS if x[0] in (GREY, COLOR)])
def test_a_transparent_color_lies_on_white(kind, depth, interlaced):
    values = samples(kind, depth)
    for key in (values[4, 5], values[0, 0]):
        data = png(values, kind, depth, interlaced, tRNS=key.astype(">u2").tobytes())
        found, expected = decode(data), by_definition(values, kind, depth, key)
        assert_close(found, expected)
        np.testing.assert_array_equal(found[(values == key).all(axis=2)], 255)
        # Others are as they are without transparency, to the bit.
        plain = decode(png(values, kind, depth, interlaced))
        shown = ~(values == key).all(axis=2)
        np.testing.assert_array_equal(found[shown], plain[shown])


def test_colors_of_sixteen_bits_differ_from_the_transparent_one_in_their_lower_bytes():
    values = np.array([[[0x1234, 0x5678, 0x9ABC], [0x1235, 0x5678, 0x9ABC], [0x1234, 0x5678, 0x9ABD]]])
    found = decode(png(values, COLOR, 16, tRNS=values[0, 0].astype(">u2").tobytes()))
    np.testing.assert_array_equal(found[0], [[255] * 3, [0x12, 0x56, 0x9A], [0x12, 0x56, 0x9A]])
    grey = np.array([[[0x1234], [0x1235]]])
    found = decode(png(grey, GREY, 16, tRNS=b"\x12\x34"))
    np.testing.assert_array_equal(found[0], [[255] * 3, [18] * 3])


def test_of_a_transparent_color_only_the_bits_of_the_image_count():
    """As libpng does; the definition leaves the others at 0."""
    values = np.arange(4).reshape(2, 2, 1)
    found = decode(png(values, GREY, 2, tRNS=b"\xff\xfe"))
    np.testing.assert_array_equal(found[..., 0], [[0, 85], [255, 255]])


@pytest.mark.parametrize("depth", DEPTHS[PALETTE])
@pytest.mark.parametrize("alphas", ["one", "some", "all"])
def test_a_palette_with_alpha(depth, alphas):
    values, rng = samples(PALETTE, depth), np.random.default_rng(1)
    palette, alpha = rng.integers(0, 256, (2**depth, 3)), np.full(2**depth, 255)
    if alphas == "one":
        alpha[1] = 0
    else:
        count = 2**depth if alphas == "all" else max(1, 2**depth // 2)
        alpha[:count] = rng.integers(0, 256, count)
    last = np.flatnonzero(alpha != 255).max() + 1
    chunks = {"PLTE": palette.astype(np.uint8).tobytes(), "tRNS": alpha[:last].astype(np.uint8).tobytes()}
    expected = by_definition(values, PALETTE, depth, None, palette, alpha)
    assert_close(decode(png(values, PALETTE, depth, **chunks)), expected)


def test_sixteen_bit_grey_of_one_transparent_value_is_white():
    found = decode(png(np.full((3, 3, 1), 1028), GREY, 16, tRNS=(1028).to_bytes(2, "big")))
    np.testing.assert_array_equal(found, 255)


# ---------------------------------------------------------------- TIFF, and what Pillow writes


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_in_each_format_that_has_it(kind):
    values = noise(9, 7, 4)
    found = decode(
        encoded(Image.fromarray(values, "RGBA"), kind, **({"lossless": True} if kind == "WEBP" else {}))
    )
    shown = values[..., 3] > 0  # WEBP need not keep colors that are not seen
    expected = on_white(values[..., :3].astype(float), values[..., 3:] / 255)
    assert_close(found[shown][None], expected[shown][None])
    np.testing.assert_array_equal(found[~shown], 255)


def tiff(strip, width, height, order="<", **tags):
    """A TIFF of one uncompressed strip by its definition; tags by number."""
    numbers = {256: (width,), 257: (height,), 259: (1,), 273: (0,), 278: (height,), 279: (len(strip),)}
    numbers |= {int(name[1:]): tuple(values) for name, values in tags.items()}
    count = len(numbers)
    at = 8 + 2 + 12 * count + 4
    outside, entries = b"", b""
    for tag in sorted(numbers):
        values = numbers[tag]
        longs = tag in (273, 279)
        if tag == 273:
            values = (at + sum(2 * len(x) for x in numbers.values() if 2 * len(x) > 4),)
        content = struct.pack(f"{order}{len(values)}{'I' if longs else 'H'}", *values)
        if len(content) > 4:
            place, outside = at + len(outside), outside + content
            content = struct.pack(f"{order}I", place)
        entries += struct.pack(f"{order}HHI", tag, 4 if longs else 3, len(values)) + content.ljust(4, b"\0")
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", count) + entries + bytes(4) + outside + strip


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("photometric", "sign"), [(1, 1), (0, -1)])
@pytest.mark.parametrize("bits", [1, 8, 16])
def test_grey_tiff_from_black_or_from_white(order, photometric, sign, bits):
    if (order, photometric, bits) == (">", 0, 16):
        pytest.skip("Pillow does not read it")
    values = np.random.default_rng(0).integers(0, 2**bits, (5, 16))
    strip = {
        1: np.packbits(values.astype(np.uint8), axis=1).tobytes(),
        8: values.astype(np.uint8).tobytes(),
        16: values.astype(f"{order}u2").tobytes(),
    }[bits]
    found = decode(tiff(strip, 16, 5, order, t258=[bits], t262=[photometric], t277=[1]))
    scaled = values / (2**bits - 1) * 255
    assert_close(found, np.repeat((scaled if sign == 1 else 255 - scaled)[..., None], 3, axis=2))


@pytest.mark.parametrize(("extra", "channels"), [(0, 4), (1, 4), (2, 4), (1, 2), (2, 2)])
@pytest.mark.parametrize("bits", [8, 16])
def test_tiff_alpha_is_associated_or_not_or_no_alpha(extra, channels, bits):
    if (channels, bits) == (2, 16):
        pytest.skip("Pillow does not read it")
    most, rng = 2**bits - 1, np.random.default_rng(0)
    alpha = rng.integers(most // 4, most + 1, (6, 8, 1))  # below it colors would be lost
    alpha[0, :3] = 0
    color = rng.integers(0, most + 1, (6, 8, channels - 1))
    stored = np.round(color * alpha / most).astype(int) if extra == 1 else color
    strip = np.concatenate([stored, alpha], axis=2).astype("<u1" if bits == 8 else "<u2").tobytes()
    photometric = [2 if channels == 4 else 1]
    data = tiff(strip, 8, 6, t258=[bits] * channels, t262=photometric, t277=[channels], t338=[extra])
    expected = on_white(color / most * 255, np.ones((6, 8, 1)) if extra == 0 else alpha / most)
    # Associated alpha is rounded twice.
    assert_close(decode(data), expected, 4 if extra == 1 else 2 if bits == 16 else 1.01)


def test_a_tiff_palette_with_alpha():
    values = np.stack([noise(5, 6) % 3, noise(5, 6, seed=1)], axis=2)
    colors = np.zeros((3, 256), int)
    colors[:, :3] = noise(3, 3, seed=2)
    shape = {"t258": [8, 8], "t262": [3], "t277": [2], "t338": [2], "t320": (257 * colors).ravel().tolist()}
    found = decode(tiff(values.tobytes(), 6, 5, **shape))
    assert_close(found, on_white(colors.T[values[..., 0]], values[..., 1:] / 255))


def test_lab_tiff_of_grey_is_grey():
    lightness = np.array([[0, 128, 255]], np.uint8)
    strip = np.stack([lightness, 0 * lightness, 0 * lightness], axis=2).tobytes()
    found = decode(tiff(strip, 3, 1, t258=[8, 8, 8], t262=[8], t277=[3]))
    assert found[0, 0].max() <= 2
    assert found[0, 2].min() >= 253
    middle = found[0, 1].astype(int)  # L* = 50.2: Y = 0.1857, as sRGB 120
    assert np.abs(middle - 120).max() <= 4


def test_floats_are_refused_and_wide_integers_checked():
    for kind in ("<f4", "<i4"):
        values = np.array([[-1, 2, 70_000]], kind)
        data = tiff(values.tobytes(), 3, 1, t258=[32], t262=[1], t277=[1], t339=[3 if kind == "<f4" else 2])
        with pytest.raises(
            ValueError, match="floating-point" if kind == "<f4" else "-1 to 70000, expected 16 bits"
        ):
            decode(data)


def test_cmyk_is_read_as_adobe_writes_it_and_as_others_do():
    plain = np.full((16, 16, 4), (255, 0, 51, 0), np.uint8)  # no red, all green, a fifth less blue
    adobe = encoded(Image.fromarray(plain, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in adobe
    assert np.abs(decode(adobe).astype(int) - (0, 255, 204)).max() <= 6
    at = adobe.index(b"Adobe") - 4
    length = int.from_bytes(adobe[at + 2 : at + 4], "big")
    without = adobe[:at] + adobe[at + 2 + length :]  # then values are not inverted
    assert np.abs(decode(without).astype(int) - (255 - np.array([0, 255, 204]))).max() <= 255
    assert decode(without).shape == (16, 16, 3)
    strip = plain.tobytes()
    found = decode(tiff(strip, 16, 16, t258=[8] * 4, t262=[5], t277=[4]))
    assert np.abs(found.astype(int) - (0, 255, 204)).max() <= 1


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_of_an_animation_the_first_frame_is_taken(kind, options):
    frames = [
        Image.new("RGBA", (6, 5), color) for color in ((255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255))
    ]
    frames[0].paste((0, 0, 0, 0), (0, 0, 3, 5))
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    found = decode(data)
    np.testing.assert_array_equal(found[:, :3], 255)
    np.testing.assert_array_equal(found[:, 3:], np.broadcast_to([255, 0, 0], (5, 3, 3)))


# ------------------------------------------------------------------- strips, limits, warnings


def everything():
    """An image of each mode that takes a way of its own."""
    color, grey = noise(50, 20, 3), noise(50, 20)
    wide = samples(COLOR, 16, 50, 20)
    yield encoded(Image.fromarray(color), "JPEG")
    yield encoded(
        Image.fromarray(grey), exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"
    )
    yield encoded(Image.fromarray(noise(50, 20, 4), "RGBA"))
    yield encoded(Image.fromarray(grey.astype(np.uint16) * 257))
    yield encoded(Image.fromarray(color).quantize(9), transparency=3)
    yield encoded(Image.fromarray(color).convert("CMYK"), "TIFF")
    yield png(wide, COLOR, 16, tRNS=wide[4, 5].astype(">u2").tobytes())


@pytest.mark.parametrize("box", [None, (3, 4, 18, 47), (0, 0, 20, 50)])
def test_strips_make_the_same_pixels_as_the_whole(box, monkeypatch):
    for data in everything():
        whole = decode(data, None if box is None else np.array(box))
        monkeypatch.setattr(rgb, "STRIP", 130)
        monkeypatch.setattr(rgb, "LARGE", 10)
        np.testing.assert_array_equal(decode(data, None if box is None else np.array(box)), whole)
        monkeypatch.undo()


def test_too_many_pixels_are_refused_before_they_are_decoded():
    for data in (
        png(np.zeros((20, 30, 1), int), GREY, 8)[:60],  # nothing but a header
        encoded(Image.new("P", (30, 20)), "GIF"),
        encoded(Image.new("RGB", (30, 20)), "WEBP"),
        encoded(Image.new("RGB", (30, 20)), "JPEG"),
        encoded(Image.new("RGB", (30, 20)), "TIFF"),
        encoded(Image.new("RGB", (30, 20)), "BMP"),
        encoded(Image.new("RGB", (30, 20)), "PPM"),
    ):
        with pytest.raises(ValueError, match=r"30 x 20 = 600 pixels, more than data.max_pixels = 599: "):
            decode(data, max_pixels=599)
    assert decode(encoded(Image.new("RGB", (30, 20))), max_pixels=600).shape == (20, 30, 3)


def test_a_tile_that_is_larger_than_the_image_is_refused():
    data = tiff(bytes(4), 2, 2, t258=[8], t262=[1], t277=[1], t322=[60_000], t323=[60_000])
    with pytest.raises(ValueError, match=r"60,000 x 60,000 = 3,600,000,000 pixels"):
        decode(data)


@pytest.mark.parametrize("name", ["zTXt", "iTXt", "iCCP"])
def test_text_that_inflates_without_end_is_refused_or_passed_over(name):
    bomb = zlib.compress(bytes(80_000_000), 9)
    content = {"zTXt": b"a\0\0" + bomb, "iTXt": b"a\0\1\0\0\0" + bomb, "iCCP": b"a\0\0" + bomb}[name]
    data = png(np.zeros((2, 2, 1), int), GREY, 8, **{name: content})
    try:
        assert decode(data).shape == (2, 2, 3)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017


ALONE = """
import resource, sys
from tests.data.storage.test_rgb import chunk, PALETTE
from pddm_jax.data.storage.decode import decode
import struct, zlib
side = 5000
packed = zlib.compressobj()
data = b"".join([*(packed.compress(bytes(side + 1)) for _ in range(side)), packed.flush()])
header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, PALETTE, 0, 0, 0))
image = b"\\x89PNG\\r\\n\\x1a\\n" + header + chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\\x80\\x40")
image += chunk(b"IDAT", data) + chunk(b"IEND", b"")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert decode(image, max_pixels=side * side).shape == (side, side, 3)
print((1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) - 60_000_000) / side**2)
broken = bytearray(open(sys.argv[1], "rb").read())
for place in range(8, len(broken), 7):
    spoilt = broken.copy()
    spoilt[place] ^= 0xFF
    try:
        decode(bytes(spoilt))
    except ValueError:
        pass
"""


def test_a_palette_with_alpha_takes_five_bytes_a_pixel_beside_a_strip_and_nothing_is_printed(tmp_path):
    image = Image.fromarray(noise(8, 8, 3))
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a description", 6
    image.save(tmp_path / "a.tif", exif=exif, compression="tiff_lzw")
    run = subprocess.run(
        [sys.executable, "-c", ALONE, tmp_path / "a.tif"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert float(run.stdout) < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_a_box_in_a_turned_tiff_counts_in_stored_pixels(orientation, compression):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "TIFF", exif=exif, compression=compression)
    for box, part in ((None, pixels), (np.array([2, 1, 9, 4]), pixels[1:4, 2:7])):
        rows = part[::-1]
        turned = {
            2: part[:, ::-1],
            3: rows[:, ::-1],
            4: rows,
            5: part.swapaxes(0, 1),
            6: rows.swapaxes(0, 1),
            7: rows[:, ::-1].swapaxes(0, 1),
            8: part[:, ::-1].swapaxes(0, 1),
        }.get(orientation, part)
        np.testing.assert_array_equal(decode(file.getvalue(), box), turned)
