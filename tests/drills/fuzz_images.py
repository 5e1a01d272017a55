"""Encoded images: every mode and format, transparency, headers that lie, damage of every kind, noise."""

import io
import random
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from pddm_jax.data.storage.decode import Encoded, Files
from tests.drills.fuzz_core import Target, Wrong, attempt, settled
from tests.drills.fuzz_mutate import DAMAGE, damaged

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB", "HSV")
SAVED = {
    "PNG": (
        {},
        {"compress_level": 0},
        {"transparency": 3},
        {"transparency": (1, 2, 3)},
        {"interlace": True},
        {"bits": 2},
    ),
    "JPEG": ({}, {"progressive": True}, {"quality": 1}, {"subsampling": 2}),
    "GIF": ({}, {"transparency": 0}, {"interlace": 1}, {"save_all": True}),
    "TIFF": (
        {},
        {"compression": "tiff_lzw"},
        {"compression": "tiff_deflate"},
        {"compression": "packbits"},
        {"compression": "jpeg"},
    ),
    "WEBP": ({}, {"lossless": True}),
    "BMP": ({},),
    "PPM": ({},),
    "ICO": ({},),
    "JPEG2000": ({},),
    "EPS": ({},),
    "PCX": ({},),
    "DDS": ({},),
}
SIZES = ((1, 1), (1, 9), (7, 5), (16, 16), (64, 33), (300, 2))
MOST = 1_000_000  # pixels that are allowed here


@cache
def encoded(form, mode, option, size, exif, seed):
    """An image file, or None where Pillow cannot write it."""
    width, height = size
    rng = np.random.default_rng(seed)
    plain = rng.integers(0, 256, (height, width, 4), np.uint8)
    image = Image.fromarray(plain, "RGBA" if True else None)
    try:
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 2**16, (height, width), np.uint16))
        elif mode in ("PA",):
            image = image.convert("RGB").quantize(16).convert("PA")
        elif mode == "P":
            image = image.convert("RGB").quantize(16)
        elif mode == "LAB":
            image = Image.frombytes("LAB", size, plain[..., :3].tobytes())
        elif mode in ("I", "F"):
            image = image.convert("L").convert(mode)
        elif mode != "RGBA":
            image = image.convert("RGB" if mode in ("YCbCr", "HSV", "CMYK") else "RGBA").convert(mode)
        out = io.BytesIO()
        options = dict(SAVED[form][option % len(SAVED[form])])
        if options.pop("save_all", False):
            options |= {"save_all": True, "append_images": [image.rotate(90)]}
        if exif:
            tags = Image.Exif()
            tags[0x0112] = exif
            options["exif"] = tags
        image.save(out, form, **options)
    except Exception:
        return None
    return out.getvalue()


def giant(data, width, height):
    """The file with other sizes in its header, and a checksum that fits."""
    data = bytearray(data)
    if data[:4] == b"\x89PNG":
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    elif data[:3] == b"GIF":
        data[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
        at = bytes(data).find(b",", 13)
        if at > 0:
            data[at + 5 : at + 9] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif data[:2] == b"BM":
        data[18:26] = struct.pack("<II", width, height)
    elif data[:2] == b"\xff\xd8":
        at = max(bytes(data).find(b"\xff\xc0"), bytes(data).find(b"\xff\xc2"))
        if at > 0:
            data[at + 5 : at + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif data[:2] in (b"II", b"MM"):
        order = "<" if data[:2] == b"II" else ">"
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        if start + 2 <= len(data):
            (count,) = struct.unpack_from(f"{order}H", data, start)
            for n in range(count):
                at = start + 2 + 12 * n
                if at + 12 > len(data):
                    break
                (tag,) = struct.unpack_from(f"{order}H", data, at)
                if tag in (256, 257, 278, 322, 323):
                    data[at + 2 : at + 12] = struct.pack(
                        f"{order}HII", 4, 1, width if tag in (256, 322) else height
                    )
    elif data[:2] in (b"P5", b"P6", b"P4"):
        rest = bytes(data).split(None, 3)
        if len(rest) == 4:
            data = bytearray(rest[0] + b" %d %d " % (width, height) + rest[3])
    elif data[:4] == b"RIFF" and data[12:16] == b"VP8L":
        word = (width - 1 & 0x3FFF) | (height - 1 & 0x3FFF) << 14
        data[21:25] = struct.pack("<I", word)
    return bytes(data)


FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")


def check_image(case):
    what, box, operations, big = case
    damage = bool(operations or big)
    if what[0] == "noise":
        data, right = random.Random(what[1]).randbytes(what[1] % 3000), None
        damage = True
    else:
        data = encoded(*what)
        if data is None:
            return "right values"
        right = what
    if big:
        data = giant(data, *big)
    data = damaged(data, operations, 64)
    path = Path(FOLDER.name) / "an image.png"
    path.write_bytes(data)
    images = Encoded(Files([path]), None if box is None else np.array([box], np.int64), max_pixels=MOST)
    outcome = attempt(lambda: images[0], (str(path),))
    if outcome.error is not None:
        if (
            not damage
            and right[0] in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")
            and box is None
            and right[1] not in ("F", "LAB", "I")
        ):
            raise Wrong(f"refuses a good image: {outcome.error}")
        return settled(outcome)
    found = outcome.value
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3 or not found.size:
        raise Wrong(f"{found.dtype} {found.shape}")
    if found.shape[0] * found.shape[1] > MOST:
        raise Wrong(f"{found.shape} is more than is allowed")
    if not damage:
        check_pixels(data, right, box, found)
    return settled(outcome)


def check_pixels(data, what, box, found):
    """Shapes, and the pixels of kinds that are laid on white by one formula."""
    width, height = what[3]
    left, top, right, bottom = (0, 0, width, height) if box is None else box
    shape = min(bottom, height) - max(top, 0), min(right, width) - max(left, 0)
    turned = what[4] in (5, 6, 7, 8) and what[0] in ("PNG", "JPEG", "TIFF", "WEBP")
    if found.shape[:2] != (shape[::-1] if turned else shape):
        raise Wrong(f"shape {found.shape} for {shape}, EXIF {what[4]}")
    if box is None and what[4] in (0, 1) and what[1] in ("RGB", "RGBA", "L", "LA") and what[0] != "GIF":
        with Image.open(io.BytesIO(data)) as image:
            if image.info.get("transparency") is not None:
                return
            pixels = np.asarray(image.convert("RGBA"), np.float64)
        alpha = pixels[..., 3:] / 255
        laid = pixels[..., :3] * alpha + 255 * (1 - alpha)
        if np.abs(laid - found).max() > 1:
            raise Wrong(f"pixels off by {np.abs(laid - found).max()}")


_good = st.tuples(
    st.sampled_from(sorted(SAVED)),
    st.sampled_from(MODES),
    st.integers(0, 5),
    st.sampled_from(SIZES),
    st.sampled_from((0, 0, 0, 1, 3, 6, 8, 9, 65535)),
    st.integers(0, 3),
)
_BIG = (
    (60_000, 60_000),
    (2**31 - 1, 1),
    (1, 2**31 - 1),
    (2**32 - 1, 2**32 - 1),
    (0, 0),
    (0, 5),
    (999, 1000),
    (1000, 1001),
    (65_535, 15),
    (2**20, 2**12),
)
IMAGES = Target(
    "images",
    st.tuples(
        st.one_of(_good, _good, _good, _good, st.tuples(st.just("noise"), st.integers(0, 2**31))),
        st.sampled_from(
            (
                None,
                None,
                None,
                None,
                (0, 0, 3, 3),
                (-5, -5, 2, 2),
                (2, 1, 2**31, 2**31),
                (5, 5, 2, 2),
                (10**6, 0, 10**7, 9),
            )
        ),
        DAMAGE,
        st.one_of(st.none(), st.none(), st.sampled_from(_BIG)),
    ),
    check_image,
    10,
    memory=300 * 2**20,
)
TARGETS = (IMAGES,)
