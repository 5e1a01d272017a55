"""Files of weights that lie, by name; a child process reads them within limits (test_weight_files.py)."""

import io
import json
import pickle
import resource
import struct
import sys
import time
import zipfile
import zlib
from pathlib import Path

MIB = 2**20
HEAD = b"".join(pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
SPARE = 200 * MIB  # of address space, beyond what the child has when it begins

STORAGE = b"ctorch\nFloatStorage\n"
VIEW = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tensor(length=4, offset=0, shape=(4,), strides=(1,), key="0", kind=STORAGE):
    """The opcodes of a tensor."""
    storage = b"(" + text("storage") + kind + text(key) + text("cpu") + integer(length) + b"tQ"
    numbers = [b"(" + b"".join(map(integer, values)) + b"t" for values in (shape, strides)]
    return VIEW + b"(" + storage + integer(offset) + b"".join(numbers) + b"\x89}tR"


def state(*opcodes):
    """A pickle of {"a": what the opcodes make}."""
    return b"\x80\x02}" + text("a") + b"".join(opcodes) + b"s."


def stored(code, data=bytes(16), method=zipfile.ZIP_STORED, names=("a/data.pkl", "a/data/0")):
    """A zip file of a pickle and one storage."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in zip(names, (code, data), strict=True):
            archive.writestr(name, content)
    return file.getvalue()


def claiming(data, old, new):
    """A zip file whose directory and headers claim another size of an entry."""
    found = data.replace(struct.pack("<I", old), struct.pack("<I", new))
    assert found != data
    return found


def deflated_bomb():
    """256 MiB of zeros deflated into 256 KiB, as a storage that tells its length truly."""
    squeeze, parts = zlib.compressobj(9, zlib.DEFLATED, -15), []
    checksum, zeros = 0, bytes(MIB)
    for _ in range(256):
        parts.append(squeeze.compress(zeros))
        checksum = zlib.crc32(zeros, checksum)
    body = b"".join([*parts, squeeze.flush()])
    code = state(tensor(2**26, 0, (2**26,)))
    return by_hand(
        {"a/data.pkl": (code, 0, len(code), zlib.crc32(code)), "a/data/0": (body, 8, 2**28, checksum)}
    )


def by_hand(entries, tail=b"", start=None):
    """A zip file of name: (bytes, method, size, checksum), byte by byte."""
    out, directory = bytearray(), bytearray()
    for name, (body, method, size, checksum) in entries.items():
        common = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 33, checksum, len(body), size, len(name), 0)
        place = len(out) if start is None else start
        directory += b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, place)
        directory += name.encode()
        out += b"PK\3\4" + common + name.encode() + body
    counts = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(out), 0)
    return bytes(out + directory) + b"PK\5\6" + counts + tail


def safetensors(header, data=bytes(16), length=None):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def entry(dtype="F32", shape=(4,), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def twice(name="a"):
    return f'{{"{name}":{json.dumps(entry())},"{name}":{json.dumps(entry("I32"))}}}'.encode()


GOOD = state(tensor())
PICKLES = {  # what an error says of each
    "memo 0x30000000": (b"\x80\x02]r\x00\x00\x00\x30.", "holds a list"),
    "string of 2 GiB": (state(b"X\xff\xff\xff\x7f"), "string of 2147483647 bytes"),
    "string of 2^63": (state(b"\x8d" + b"\xff" * 8), "string of 18446744073709551615 bytes"),
    "bytes of 4 GiB": (state(b"B\xff\xff\xff\xff"), "string of 4294967295 bytes"),
    "bytes of 2^62": (state(b"\x8e" + struct.pack("<Q", 2**62)), "string of"),
    "bytearray of 2^62": (state(b"\x96" + struct.pack("<Q", 2**62)), "BYTEARRAY8"),
    "frame of 2^63": (b"\x80\x04\x95" + b"\xff" * 8 + b"].", "holds a list"),
    "integer of 2 GiB": (state(b"\x8b\xff\xff\xff\x7f"), "LONG4"),
    "integer of a million digits": (state(b"L" + b"9" * 10**6 + b"L\n"), "opcode LONG"),
    "nested lists": (b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "holds a list"),
    "nested dicts": (b"\x80\x02" + b"}K\x01" * 50_000 + b"}" + b"s" * 50_000 + b".", "not tensors: [1]"),
    "nested tuples": (state(b")" + b"\x85" * 200_000), "not tensors: ['a']"),
    "tuples doubled": (state(b")" + b"2\x86" * 100), "opcode DUP"),
    "tuples doubled by memo": (state(b")" + b"q\x00h\x00\x86" * 1000), "not tensors: ['a']"),
    "hash of tuples doubled": (
        b"\x80\x02})" + b"q\x00h\x00\x86" * 200 + b"Ns.",
        "key of a dict is a tuple",
    ),
    "integers of one hash": (b"\x80\x02}" + integer((2**61 - 1) * 3) + b"Ns.", "key of a dict is a int"),
    "dicts of one list": (
        b"\x80\x02]("
        + b"](K\x01K\x02e" * 30_000
        + b"eq\x00"
        + b"ccollections\nOrderedDict\nq\x01"
        + b"h\x01h\x00\x85R" * 10_000
        + b".",
        "more than 1000000 opcodes",
    ),
    "a million dicts": (b"\x80\x02" + b"}" * 1_100_000 + b".", "more than 1000000 opcodes"),
    "a million remembered": (b"\x80\x02" + b"}\x94" * 600_000 + b".", "more than 1000000 opcodes"),
    "list in itself": (b"\x80\x02]q\x00h\x00a.", "holds a list"),
    "dict in itself": (b"\x80\x02}q\x00" + text("state_dict") + b"h\x00s.", "not tensors: ['state_dict']"),
    "class by extension": (state(b"\x82\x01"), "opcode EXT1"),
    "class by extension 4": (state(b"\x84\xff\xff\xff\x7f"), "opcode EXT4"),
    "copyreg": (state(b"ccopyreg\n_reconstructor\n)R"), "copyreg._reconstructor, which is refused"),
    "eval": (state(b"c__builtin__\neval\n(" + text("1") + b"tR"), "__builtin__.eval, which is refused"),
    "eval on the stack": (b"\x80\x04" + text("builtins") + text("eval") + b"\x93.", "builtins.eval, which"),
    "global without end": (state(b"c" + b"a" * MIB), "global without a name"),
    "object of a class": (state(b"(ios\nsystem\n"), "opcode INST"),
    "new object": (state(b"ccollections\nOrderedDict\n)\x81"), "opcode NEWOBJ"),
    "state of a tensor": (state(tensor(), b"}b"), "damaged"),
    "state of a kind": (state(STORAGE, b"}b"), "damaged"),
    "attributes": (
        state(b"ccollections\nOrderedDict\n)R}" + text("__class__") + b"Nsb"),
        "not tensors: ['a']",
    ),
    "call of a string": (state(text("x"), b")R"), "damaged"),
    "call of a kind": (state(STORAGE, b")R"), "damaged"),
    "dict without pairs": (state(b"ccollections\nOrderedDict\nK\x05\x85R"), "not made of pairs"),
    "text reference": (state(b"P0\n"), "opcode PERSID"),
    "reference to a number": (state(b"K\x01Q"), "not a storage"),
    "reference to other kinds": (state(b"(" + text("module") + STORAGE + b"NNNtQ"), "not a storage"),
    "buffer outside": (state(b"\x97"), "opcode NEXT_BUFFER"),
    "protocol 9": (b"\x80\x09}.", "protocol 9"),
    "unknown opcode": (b"\x80\x02\xff.", "opcode 0xff"),
    "empty stack": (b"\x80\x02s.", "damaged"),
    "mark left": (b"\x80\x02}(.", "damaged"),
    "memo unknown": (b"\x80\x02h\x07.", "damaged"),
    "no end": (b"\x80\x02}", ""),
    "half a string": (b"\x80\x02X\x09\x00\x00\x00abc", ""),
    "not UTF-8": (state(b"X\x01\x00\x00\x00\xff"), "utf-8"),
    "dict of one item": (b"\x80\x02}(K\x01u.", "damaged"),
    "bytes as a name": (b"\x80\x03}C\x01aNs.", "key of a dict is a bytes"),
    "shape of 2^40 x 2^40": (state(tensor(4, 0, (2**40, 2**40), (0, 0))), "impossible shape"),
    "shape 0 x 2^62 x 8": (state(tensor(4, 0, (0, 2**61, 8), (0, 0, 0))), "impossible shape"),
    "shape of 1,000 bits": (state(tensor(4, 0, (2**1000,), (0,))), "not an integer"),
    "shape below 0": (state(tensor(4, 0, (-4,), (1,))), "not an integer"),
    "shape of a bool": (state(tensor().replace(integer(4) + b"t(", b"\x88t(")), "not an integer"),
    "strides missing": (state(tensor(4, 0, (2, 2), (1,))), "2 dimensions and 1 strides"),
    "100 dimensions": (state(tensor(4, 0, (1,) * 100, (1,) * 100)), "100 dimensions"),
    "beyond its storage": (state(tensor(4, 1)), "lies outside its storage"),
    "stride beyond": (state(tensor(4, 0, (2,), (2**62,))), "lies outside its storage"),
    "storage below 0": (state(tensor(-4, 0, (0,))), "impossible length"),
    "storage of 2^62": (state(tensor(2**62, 0, (1,))), "impossible length"),
    "storage twice": (b"\x80\x02}" + text("a") + tensor() + b"s" + text("b") + tensor(5) + b"s.", "twice"),
    "name of 1 MiB": (b"\x80\x02}" + text("n\n\x1b" * 300_000) + b"Ns.", "(900000 characters)"),
    "complex": (
        state(tensor(kind=b"ctorch\nComplexFloatStorage\n")),
        "torch.ComplexFloatStorage, which is",
    ),
    "tensor of a list": (state(VIEW + b"(]K\x00))\x89}tR"), "not described by a storage"),
    "tensor of nothing": (state(VIEW + b")R"), "damaged"),
}
ZIPS = {
    "bomb": (deflated_bomb, "would grow from"),
    "bomb as data.pkl": (
        lambda: stored(bytes(64 * MIB), method=zipfile.ZIP_DEFLATED),
        "more than 16777216",
    ),
    "bomb that claims 16 bytes": (
        lambda: claiming(stored(GOOD, bytes(64 * MIB), zipfile.ZIP_DEFLATED), 64 * MIB, 16),
        "damaged",
    ),
    "data.pkl that claims less": (
        lambda: claiming(
            stored(GOOD + bytes(64 * MIB), method=zipfile.ZIP_DEFLATED), 64 * MIB + len(GOOD), 77
        ),
        "",
    ),
    "storage of 16 GiB": (
        lambda: stored(state(tensor(2**32, 0, (2**32,)))),
        "has 16 bytes, not 17179869184",
    ),
    "key of 1 MiB": (
        lambda: stored(state(tensor(key="k" * 10**6))),
        "k... (1000000 characters) of 16 bytes",
    ),
    "shorter than described": (lambda: stored(GOOD, bytes(15)), "has 15 bytes"),
    "longer than described": (lambda: stored(GOOD, bytes(2**20)), "has 1048576 bytes"),
    "storage not there": (lambda: stored(GOOD, names=("a/data.pkl", "a/data/1")), "is missing"),
    "no pickle": (lambda: stored(GOOD, names=("a/x", "a/data/0")), "0 entries data.pkl"),
    "two pickles": (lambda: stored(GOOD, names=("a/data.pkl", "b/data.pkl")), "2 entries data.pkl"),
    "bzip2": (lambda: stored(GOOD, method=zipfile.ZIP_BZIP2), "method 12"),
    "LZMA": (lambda: stored(GOOD, method=zipfile.ZIP_LZMA), "method 14"),
    "flipped bit": (lambda: stored(GOOD, b"abcdefghijklmnop").replace(b"hijk", b"hjjk"), "Bad CRC-32"),
    "encrypted": (
        lambda: stored(GOOD).replace(b"PK\1\2\x14\x03\x14\0\0\0", b"PK\1\2\x14\x03\x14\0\1\0"),
        "is encrypted",
    ),
    "bytes after": (lambda: stored(GOOD) + b"more", "goes on after its directory"),
    "bytes before": (lambda: b"PK" + stored(GOOD), "its directory has"),
    "overlap": (
        lambda: by_hand(
            {
                "a/data.pkl": (GOOD, 0, len(GOOD), zlib.crc32(GOOD)),
                "a/data/0": (bytes(16), 0, 16, zlib.crc32(bytes(16))),
            },
            start=0,
        ),
        "overlaps",
    ),
    "two sizes": (
        lambda: by_hand({"a/data.pkl": (GOOD, 0, 2**31, zlib.crc32(GOOD))}),
        "is stored, but has two sizes",
    ),
    "pickle twice": (
        lambda: by_hand(
            {"a/data.pkl": (GOOD, 0, len(GOOD), 0), "b/data.pkl": (GOOD, 0, len(GOOD), 0)}
        ).replace(b"b/data.pkl", b"a/data.pkl"),
        "two entries a/data.pkl",
    ),
    "directory of 8 MiB": (
        lambda: by_hand({f"{n:099d}": (b"", 0, 0, 0) for n in range(60_000)}),
        "4194304 at most",
    ),
    "directory elsewhere": (lambda: stored(GOOD)[:-10] + b"\xff" * 8 + b"\0\0", "damaged zip file"),
    "big-endian": (lambda: stored(GOOD, b"big", names=("a/data.pkl", "a/byteorder")), "not little-endian"),
    "byteorder of 64 MiB": (
        lambda: stored(GOOD, bytes(64 * MIB), zipfile.ZIP_DEFLATED, ("a/data.pkl", "a/byteorder")),
        "more than 16",
    ),
    "pickle and more": (lambda: stored(GOOD + b"N."), "goes on after its end"),
}
SPARSE = {  # what files of 2^40 bytes begin with
    "zip": stored(GOOD),
    "legacy": HEAD + GOOD + pickle.dumps(["0"], 2) + struct.pack("<q", 4),
    "string": HEAD + b"\x80\x02X\xff\xff\xff\xff",
    "nothing": b"",
}
LEGACY = {
    "storage of 8 GiB": (
        HEAD
        + state(tensor(2**31, 0, (4,)))
        + pickle.dumps(["0"], 2)
        + struct.pack("<q", 2**31)
        + bytes(16),
        "should end it at",
    ),
    "lengths differ": (
        HEAD + GOOD + pickle.dumps(["0"], 2) + struct.pack("<q", 2**31) + bytes(16),
        "not that in the pickle",
    ),
    "bytes after": (
        HEAD + GOOD + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(17),
        "should end it at",
    ),
    "storage twice": (
        HEAD + GOOD + pickle.dumps(["0", "0"], 2) + 2 * (struct.pack("<q", 4) + bytes(16)),
        "should end it at",
    ),
    "storage unknown": (HEAD + GOOD + pickle.dumps(["1"], 2), "differs from those of its tensors"),
    "no storages": (HEAD + GOOD + pickle.dumps([], 2), "differs from those of its tensors"),
    "big-endian": (HEAD.replace(b"\x88", b"\x89") + GOOD, "not little-endian"),
    "nothing but a head": (HEAD, "ends within"),
}
SAFETENSORS = {
    "negative": (safetensors({"a": entry(offsets=(-16, 0))}), "-16"),
    "negative shape": (safetensors({"a": entry(shape=(-4,))}), "-4"),
    "overlap": (safetensors({"a": entry(), "b": entry()}), "invalid offset"),
    "one within another": (
        safetensors({"a": entry(), "b": entry(shape=(1,), offsets=(4, 8))}),
        "invalid offset",
    ),
    "hole": (
        safetensors({"a": entry(), "b": entry(shape=(1,), offsets=(20, 24))}, bytes(24)),
        "invalid offset",
    ),
    "reversed": (safetensors({"a": entry(offsets=(16, 0))}), "invalid"),
    "bytes after": (safetensors({"a": entry()}, bytes(17)), "not fully covered"),
    "data missing": (safetensors({"a": entry()}, bytes(15)), "not fully covered"),
    "entry twice": (safetensors(twice()), "has a twice"),
    "metadata twice": (
        safetensors(b'{"__metadata__":{},"__metadata__":{}}', b""),
        "has __metadata__ twice",
    ),
    "field twice": (safetensors(b'{"a":{"dtype":"F32","dtype":"I32"}}'), "has dtype twice"),
    "a million names": (
        safetensors(b'{"":0,' + b",".join(b'"%d":0' % n for n in range(10**5)) + b"}"),
        "invalid",
    ),
    "header of 2^60": (safetensors(b"{", length=2**60), "should have 1152921504606846976 bytes"),
    "header of 8 MiB": (safetensors(b"{" + b" " * 8 * MIB + b"}", b""), "the limit is 4194304"),
    "header beyond the file": (safetensors({"a": entry()}, length=1000), "should have 1000 bytes"),
    "header of 1 byte": (safetensors(b"{", length=1), "Expecting property name"),
    "header that nests": (safetensors(b'{"a":' + b"[" * 10**6), "nests too deeply"),
    "header of lists": (safetensors(b'{"a":[' + b"[]," * 10**6 + b"1]}"), "invalid"),
    "huge integer": (safetensors(b'{"a":' + b"9" * 10**6 + b"}"), "digits"),
    "UTF-16": (safetensors('{"a":1}'.encode("utf-16-le")), "invalid JSON"),
    "dtype in small letters": (safetensors({"a": entry("f32")}), "f32"),
    "complex": (safetensors({"a": entry("C64", (2,))}), "got C64"),
    "float8": (safetensors({"a": entry("F8_E4M3", (16,))}), "got F8_E4M3"),
    "product that overflows": (safetensors({"a": entry(shape=(2**62, 4))}), "overflow"),
    "product of 0": (safetensors({"a": entry(shape=(0, 2**62, 8), offsets=(0, 0))}, b""), "not an integer"),
    "shape of another size": (safetensors({"a": entry(shape=(5,))}), "invalid shape"),
    "shape of floats": (safetensors({"a": entry(shape=(4.0,))}), "4.0"),
    "shape of bools": (safetensors({"a": entry(shape=(True,), offsets=(0, 4))}, bytes(4)), "true"),
    "100 dimensions": (safetensors({"a": entry(shape=(1,) * 99 + (4,))}), "100 dimensions"),
    "not an object": (safetensors(b"{}[]", b""), "Extra data"),
    "names no string": (safetensors(b"{1:2}"), "Expecting property name"),
    "lone surrogate": (safetensors(b'{"\\ud800":1}'), "invalid JSON"),
}


def write(folder):
    """Write all of them; what an error says, by file name."""
    told = {}
    for kind, files in (("zip", ZIPS), ("legacy", LEGACY), ("safetensors", SAFETENSORS)):
        for name, (data, part) in files.items():
            told[f"{kind}: {name}"] = part
            (folder / f"{kind}: {name}").write_bytes(data() if callable(data) else data)
    for name, (code, part) in PICKLES.items():
        forms = {"zip pickle": (stored(code), part)}
        if len(code) < 100_000:  # the others take long
            forms["legacy pickle"] = HEAD + code + pickle.dumps([], 2), part
            forms["pickle"] = code, ""
        for kind, (data, said) in forms.items():
            (folder / f"{kind}: {name}").write_bytes(data)
            told[f"{kind}: {name}"] = said
    for name, start in SPARSE.items():
        with (folder / f"sparse: {name}").open("wb") as file:
            file.write(start)
            file.truncate(2**40)
        told[f"sparse: {name}"] = ""
    return told


def main():
    """Read each file of a folder with little room; a line of JSON for each: name, seconds, what is said."""
    from pddm_jax.networks.pretrained.tensors import read_tensors

    used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, used + SPARE))
    for path in sorted(Path(sys.argv[1]).iterdir()):
        start = time.perf_counter()
        try:
            said = f"read: {[*read_tensors(path)]}"
        except ValueError as error:
            said = str(error)
        print(json.dumps([path.name, time.perf_counter() - start, said]), flush=True)


if __name__ == "__main__":
    main()
