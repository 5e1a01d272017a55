"""Class names as text that matplotlib can draw: code points in place of characters that no font has."""

from collections.abc import Collection
from functools import cache
from textwrap import wrap

from matplotlib.font_manager import FontProperties, findfont, get_font

FONTS = ["DejaVu Sans", "DejaVu Serif", "STIXGeneral"]
"""Families that come with matplotlib, in the order in which it looks for a character."""


def drawable(name: str, weight: str = "normal") -> str:
    """The name on one line, with `U+0000` in place of each character that none of `FONTS` has.

    >>> drawable("snowman ☃ 雪")
    'snowman ☃ U+96EA'
    """
    words = []
    for word in name.split():
        pieces = [c if ord(c) in _characters(weight) else f" U+{ord(c):04X} " for c in word]
        words += "".join(pieces).split()
    return " ".join(words)


def shortened(text: str, length: int = 60) -> str:
    """The text, cut off with three dots where it is longer."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def wrapped(text: str, width: int, lines: int) -> str:
    """The text on at most so many lines of `width` characters, cut off with three dots where longer."""
    return "\n".join(wrap(text, width, max_lines=lines, placeholder="..."))


@cache
def _characters(weight: str) -> Collection[int]:
    """The code points that the fonts have at a weight."""
    paths = [findfont(FontProperties(family=[name], weight=weight)) for name in FONTS]
    return frozenset().union(*(get_font(path).get_charmap() for path in paths))
