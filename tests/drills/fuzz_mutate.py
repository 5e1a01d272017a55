"""Damage to bytes, as literals that Hypothesis draws: what was cut, flipped or overwritten, and where."""

import random
import struct

from hypothesis import strategies as st

WORDS = (0, 1, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
TEXTS = (
    *(
        b"\n",
        b"\r\n",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b",",
        b'"',
        b"{",
        b"[",
        b"}",
        b" ",
        b"-1",
        b"NaN",
        b"1e999",
        b"null",
    ),
    *(
        b"../",
        b"/",
        b"\\",
        b"999999999999999999999999",
        b"[" * 5000,
        b"\xf0\x9f\x98\x80",
        b"\xed\xa0\x80",
        b"%s{}",
        b"true",
    ),
)
_place = st.integers(0, 10_000)
OPERATION = st.one_of(
    st.tuples(st.just("flip"), _place, st.integers(0, 7)),
    st.tuples(st.just("flip"), _place, st.integers(0, 7)),
    st.tuples(st.just("byte"), _place, st.integers(0, 255)),
    st.tuples(st.just("cut"), _place, st.just(0)),
    st.tuples(st.just("drop"), _place, st.integers(1, 64)),
    st.tuples(st.just("zero"), _place, st.integers(1, 64)),
    st.tuples(st.just("repeat"), _place, st.integers(1, 200)),
    st.tuples(st.just("word<"), _place, st.sampled_from(WORDS)),
    st.tuples(st.just("word>"), _place, st.sampled_from(WORDS)),
    st.tuples(st.just("text"), _place, st.integers(0, len(TEXTS) - 1)),
    st.tuples(st.just("noise"), _place, st.integers(0, 2**16)),
    st.tuples(st.just("empty"), st.just(0), st.just(0)),
)
DAMAGE = st.lists(OPERATION, min_size=0, max_size=4).map(tuple)


def damaged(data, operations, head=0):
    """The bytes after all operations; places are ten-thousandths of them, or of the first `head`."""
    data = bytearray(data)
    for name, place, value in operations:
        at = place * (min(head, len(data)) if head and place % 2 else len(data)) // 10_001
        if name == "empty":
            data = bytearray()
        elif not data:
            continue
        elif name == "flip":
            data[at] ^= 1 << value
        elif name == "byte":
            data[at] = value
        elif name == "cut":
            del data[at:]
        elif name == "drop":
            del data[at : at + value]
        elif name == "zero":
            data[at : at + value] = bytes(len(data[at : at + value]))
        elif name == "repeat":
            data[at:at] = data[at : at + value]
        elif name in ("word<", "word>"):
            data[at : at + 4] = struct.pack(f"{name[-1]}I", value)
        elif name == "text":
            data[at:at] = TEXTS[value]
        elif name == "noise":
            data[at : at + 16] = random.Random(value).randbytes(16)
    return bytes(data)
