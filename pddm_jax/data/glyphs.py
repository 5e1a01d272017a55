"""Glyphs: characters in many typefaces, rendered from the fonts that matplotlib bundles."""

import os
import unicodedata
import zipfile
import zlib
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
import PIL
from fontTools.ttLib import TTFont
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from pddm_jax.data.images import Images, Split, split_half
from pddm_jax.system.files import held, replacing, sweep_abandoned
from pddm_jax.system.regular import check_regular

FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
LEAST_FACES = 8
CATEGORIES = "LNSP"  # Unicode's letters, numbers, symbols and punctuation
EM = 0.6875  # of the image's side: 22 pixels of 32
BETWEEN = " / "  # the characters of a class, in its name
LAYOUT = 2  # incremented when the rendering changes, so that no old cache is read


def load(root: str | None, image_size: int | None, seed: int) -> Split:
    """Glyphs of `image_size` (32) pixels, half of the characters for training, the others for test.

    A character is used if at least 8 of the 16 typefaces have it. Characters that any typeface draws alike,
    pixel by pixel (Latin A, Greek Alpha), are one class, with one image for each typeface and the names of
    all its characters: see `character_names`.

    Args:
        root: folder where the rendering is cached; None = the user's cache folder.
        image_size: side of an image in pixels.
        seed: of the split.
    """
    size = 32 if image_size is None else image_size
    if size < 8:
        raise ValueError(f"data.image_size must be at least 8 for glyphs, got {size}")
    return split_half(_cached(_cache_folder(root), size), seed)


def _cache_folder(root: str | None) -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(root).expanduser() if root else caches / "pddm_jax"


def _cached(folder: Path, size: int) -> Images:
    """Read the rendering from the cache, or render and cache it; a corrupt cache is replaced."""
    _check_is_cache(folder)
    versions = f"{LAYOUT}-matplotlib{matplotlib.__version__}-pillow{PIL.__version__}"
    path = folder / f"glyphs-{size}-{versions}.npz"
    try:
        check_regular(path, None)
        with path.open("rb") as file, np.load(file) as stored:
            images, labels, characters = (stored[k] for k in ("images", "labels", "characters"))
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error):
        images, labels, characters = render(size)
        with replacing(path) as part, held(part):
            np.savez(part, images=images, labels=labels, characters=characters)
        sweep_abandoned(folder)
    names: dict[int, str] = {}
    for c, label in characters.tolist():
        before = f"{names[label]}{BETWEEN}" if label in names else ""
        names[label] = f"{before}{chr(c)} {unicodedata.name(chr(c), '')}"
    return Images(images, labels, names)


def _check_is_cache(folder: Path) -> None:
    """Raise a ValueError if a folder has class folders of images, which glyphs would silently ignore."""
    found = next((x for x in folder.glob("*/*") if x.suffix.lower() in (".jpg", ".jpeg", ".png")), None)
    if found is not None:
        raise ValueError(
            f"data.root: {folder} holds images, for example {found.relative_to(folder)}, but glyphs are "
            "rendered and only cached there: use experiments.folder for your own images"
        )


def character_names(class_name: str) -> list[str]:
    """The Unicode names of the characters of a class, from its name.

    >>> character_names("A LATIN CAPITAL LETTER A / Α GREEK CAPITAL LETTER ALPHA")
    ['LATIN CAPITAL LETTER A', 'GREEK CAPITAL LETTER ALPHA']
    """
    return [character[2:] for character in class_name.split(BETWEEN)]


def render(
    size: int,
) -> tuple[UInt8[np.ndarray, "n h w 1"], Int[np.ndarray, " n"], Int[np.ndarray, "m 2"]]:
    """Images; class labels 0.. in the order of lowest code points; each code point with its class."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [fonts / f"{face}.ttf" for face in FACES]
    maps = []
    for path in paths:
        with TTFont(path, lazy=True) as font:
            maps.append(font.getBestCmap())
    characters = [
        c
        for c in sorted(set().union(*maps))
        if unicodedata.category(chr(c))[0] in CATEGORIES
        and sum(c in mapped for mapped in maps) >= LEAST_FACES
    ]
    drawings: dict[tuple[int, int], np.ndarray] = {}
    for face, (path, mapped) in enumerate(zip(paths, maps, strict=True)):
        face_at_size = ImageFont.truetype(str(path), round(EM * size))
        for c in characters:
            if c in mapped and (drawing := _draw(chr(c), face_at_size, size)) is not None:
                drawings[c, face] = drawing

    first = _merge_alike(drawings)
    classes = sorted(set(first.values()))
    label_of = {c: label for label, c in enumerate(classes)}
    by_class: dict[tuple[int, int], np.ndarray] = {}
    for (c, face), drawing in sorted(drawings.items(), key=lambda item: item[0]):
        by_class.setdefault((label_of[first[c]], face), drawing)
    images = np.stack([by_class[key] for key in sorted(by_class)])[..., None]
    labels = np.array([label for label, _ in sorted(by_class)], np.int32)
    return images, labels, np.array([(c, label_of[first[c]]) for c in sorted(first)], np.int32)


def _draw(character: str, font: ImageFont.FreeTypeFont, size: int) -> np.ndarray | None:
    """White on black, its ink centered, shrunk only if it would not fit; None if blank."""
    # The canvas has 2.9 ems on each side of the pen's start, more below and to the right; FACES need two.
    drawn = Image.new("L", (6 * size, 6 * size))
    ImageDraw.Draw(drawn).text((2 * size, 2 * size), character, fill=255, font=font)
    box = drawn.getbbox()
    if box is None:
        return None
    ink = drawn.crop(box)
    if max(ink.size) > size:
        ink.thumbnail((size, size), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (size, size))
    canvas.paste(ink, ((size - ink.width) // 2, (size - ink.height) // 2))
    drawing = np.asarray(canvas)
    return drawing if drawing.any() else None


def _merge_alike(drawings: dict[tuple[int, int], np.ndarray]) -> dict[int, int]:
    """For each character the lowest character that is drawn alike, by any face, transitively."""
    first = {c: c for c, _ in drawings}

    def find(c: int) -> int:
        while first[c] != c:
            c = first[c]
        return c

    alike = defaultdict(list)
    for (c, _), drawing in drawings.items():
        alike[drawing.tobytes()].append(c)
    for group in alike.values():
        roots = sorted({find(c) for c in group})
        first.update(dict.fromkeys(roots, roots[0]))
    return {c: find(c) for c in first}
