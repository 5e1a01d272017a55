"""A reader of PyTorch's pickles that runs nothing: a stack machine of the opcodes that tensors need.

`pickle.Unpickler` cannot be held within bounds: it grows its memo to whatever index a file names. Here the
memo is a table, every opcode makes at most one small object, and their number is limited. A pickle may name
only `GLOBALS`, none of which does more than describe data.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import IO, Any

import numpy as np

from pddm_jax.networks.pretrained.tensor_layout import BFLOAT16, Layout, Storage, shown

MAX_OPCODES = 1_000_000
"""About 40 are needed for a tensor."""
MAX_BYTES = 16 * 2**20
MAX_STRING = 2**20
MAX_GLOBAL = 200  # characters of a module or a name

TORCH_DTYPES = {
    "BFloat16Storage": BFLOAT16,
    "BoolStorage": np.dtype("?"),
    "ByteStorage": np.dtype("<u1"),
    "CharStorage": np.dtype("<i1"),
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "IntStorage": np.dtype("<i4"),
    "LongStorage": np.dtype("<i8"),
    "ShortStorage": np.dtype("<i2"),
}


def _layout(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Layout:
    if not (type(storage) is Storage and type(shape) is tuple and type(strides) is tuple):
        raise ValueError("a tensor is not described by a storage, an offset, a shape and strides")
    return Layout(storage, offset, shape, strides)


def _parameter(layout: Any, *_: Any) -> Any:
    return layout


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    """An OrderedDict; Python 2 gives its items as a list of lists of two."""
    if (type(pairs) is not list and pairs != ()) or any(type(p) is not list or len(p) != 2 for p in pairs):
        raise ValueError("an OrderedDict is not made of pairs")
    return {_key(name): value for name, value in pairs}


def _key(value: Any) -> Any:
    """A key of a dict.

    Nested tuples take exponential time to hash, and integers from 2^61 on may all have one hash.
    """
    if type(value) is str or value is None or (type(value) in (int, bool) and abs(value) < 2**60):
        return value
    raise ValueError(f"a key of a dict is {shown(value)}, not a string or a small integer")


GLOBALS: dict[str, Callable[..., Any] | np.dtype] = {
    "collections.OrderedDict": _dict,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_tensor_v2": _layout,
    **{f"torch.{name}": dtype for name, dtype in TORCH_DTYPES.items()},
}


class PickleReader:
    """Reads one pickle after another from a file; `storages` holds what the last one referred to.

    All of them together may take `MAX_OPCODES` and `MAX_BYTES`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.opcodes, self.bytes = MAX_OPCODES, MAX_BYTES
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def load(self) -> Any:
        """The next pickle: dicts, lists, tuples, scalars and strings, and a `Layout` for each tensor.

        Raises:
            ValueError: it is damaged, asks for what is not in `GLOBALS`, or is beyond the limits.
        """
        self.stack, self.marks, self.memo, self.storages = [], [], {}, {}
        read, actions = self.file.read, ACTIONS
        try:
            while (code := read(1)) != STOP:
                self.spend(1)
                action = actions.get(code)
                if action is None:
                    raise ValueError(_refusal(code))
                action(self)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"its pickle is damaged before byte {self.file.tell()}") from error
        if len(self.stack) != 1 or self.marks:
            raise ValueError(f"its pickle is damaged before byte {self.file.tell()}")
        return self.stack.pop()

    def spend(self, opcodes: int) -> None:
        """Count opcodes, or as much work."""
        self.opcodes -= opcodes
        if self.opcodes < 0:
            raise ValueError(f"its pickles have more than {MAX_OPCODES} opcodes")

    def take(self, size: int) -> bytes:
        """The next bytes of the file."""
        self.bytes -= size
        if size > MAX_STRING or self.bytes < 0:
            raise ValueError(f"its pickle has a string of {size} bytes, or more than {MAX_BYTES} in all")
        found = self.file.read(size)
        if len(found) != size:
            raise ValueError("it ends within its pickle")
        return found

    def items(self) -> list[Any]:
        """What lies above the last mark, taken off the stack."""
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def find(self, module: Any, name: Any) -> None:
        """Put what is known by this name on the stack."""
        path = f"{module}.{name}" if type(module) is str and type(name) is str else ""
        if path not in GLOBALS:
            raise ValueError(f"it asks for {shown(path)}, which is refused")
        self.stack.append(GLOBALS[path])


def _refusal(code: bytes) -> str:
    if not code:
        return "it ends within its pickle"
    names = [opcode.name for opcode in pickletools.opcodes if opcode.code.encode("latin-1") == code]
    name = names[0] if names else f"0x{code[0]:02x}"
    return f"its pickle has the opcode {name}, which tensors do not need"


def _protocol(reader: PickleReader) -> None:
    (version,) = reader.take(1)
    if not 2 <= version <= 5:
        raise ValueError(f"its pickle has protocol {version}, not 2 to 5")


def _frame(reader: PickleReader) -> None:
    reader.take(8)  # a hint for readers that buffer


def _value(reader: PickleReader, value: Any) -> None:
    reader.stack.append(value)


def _empty(reader: PickleReader, kind: type) -> None:
    reader.stack.append(kind())


def _number(reader: PickleReader, form: struct.Struct) -> None:
    reader.stack.append(*form.unpack(reader.take(form.size)))


def _long(reader: PickleReader) -> None:
    (size,) = reader.take(1)
    reader.stack.append(int.from_bytes(reader.take(size), "little", signed=True))


def _string(reader: PickleReader, length: struct.Struct, text: bool = True) -> None:
    (size,) = length.unpack(reader.take(length.size))
    found = reader.take(size)
    reader.stack.append(found.decode() if text else found)


def _global(reader: PickleReader) -> None:
    lines = [reader.file.readline(MAX_GLOBAL) for _ in range(2)]
    if not all(line.endswith(b"\n") for line in lines):
        raise ValueError("its pickle has a global without a name")
    reader.find(*(line[:-1].decode() for line in lines))


def _stack_global(reader: PickleReader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    reader.find(module, name)


def _mark(reader: PickleReader) -> None:
    reader.marks.append(len(reader.stack))


def _tuple(reader: PickleReader) -> None:
    reader.stack.append(tuple(reader.items()))


def _short_tuple(reader: PickleReader, size: int) -> None:
    found = [reader.stack.pop() for _ in range(size)]
    reader.stack.append(tuple(found[::-1]))


def _append(reader: PickleReader) -> None:
    _extend(reader, [reader.stack.pop()])


def _appends(reader: PickleReader) -> None:
    _extend(reader, reader.items())


def _extend(reader: PickleReader, values: list[Any]) -> None:
    if type(reader.stack[-1]) is not list:
        raise TypeError
    reader.stack[-1].extend(values)


def _set_item(reader: PickleReader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    _update(reader, [key, value])


def _set_items(reader: PickleReader) -> None:
    _update(reader, reader.items())


def _update(reader: PickleReader, items: list[Any]) -> None:
    if type(reader.stack[-1]) is not dict or len(items) % 2:
        raise TypeError
    for key, value in zip(items[::2], items[1::2], strict=True):
        reader.stack[-1][_key(key)] = value


def _remember(reader: PickleReader, form: struct.Struct) -> None:
    (place,) = form.unpack(reader.take(form.size))
    reader.memo[place] = reader.stack[-1]


def _memoize(reader: PickleReader) -> None:
    reader.memo[len(reader.memo)] = reader.stack[-1]


def _recall(reader: PickleReader, form: struct.Struct) -> None:
    (place,) = form.unpack(reader.take(form.size))
    reader.stack.append(reader.memo[place])


def _reduce(reader: PickleReader) -> None:
    arguments, function = reader.stack.pop(), reader.stack.pop()
    if type(arguments) is not tuple or not isinstance(function, FunctionType):
        raise TypeError
    # A list may be recalled for one dict after another, so what it holds counts each time.
    reader.spend(sum(len(argument) for argument in arguments if type(argument) is list))
    reader.stack.append(function(*arguments))


def _build(reader: PickleReader) -> None:
    """Drop the attributes of an OrderedDict: a state_dict has its versions there."""
    state = reader.stack.pop()
    if type(state) is not dict or type(reader.stack[-1]) is not dict:
        raise TypeError


def _persistent_id(reader: PickleReader) -> None:
    found = reader.stack.pop()
    if type(found) is not tuple or len(found) not in (5, 6) or found[0] != "storage":
        raise ValueError("it refers to what is no storage")
    _, dtype, key, _, length, *view = found
    if not isinstance(dtype, np.dtype) or not all(x is None for x in view):
        raise ValueError("it refers to what is no storage")
    storage = Storage(key, dtype, length)
    if reader.storages.setdefault(key, storage) != storage:
        raise ValueError(f"storage {shown(key)} is described twice and differently")
    reader.stack.append(storage)


BYTE, SHORT, INT, LONG = (struct.Struct(f"<{form}") for form in "BHIQ")
STOP = b"."
ACTIONS: dict[bytes, Callable[[PickleReader], None]] = {
    pickle.PROTO: _protocol,
    pickle.FRAME: _frame,
    pickle.NONE: partial(_value, value=None),
    pickle.NEWTRUE: partial(_value, value=True),
    pickle.NEWFALSE: partial(_value, value=False),
    pickle.BININT: partial(_number, form=struct.Struct("<i")),
    pickle.BININT1: partial(_number, form=BYTE),
    pickle.BININT2: partial(_number, form=SHORT),
    pickle.BINFLOAT: partial(_number, form=struct.Struct(">d")),
    pickle.LONG1: _long,
    pickle.SHORT_BINSTRING: partial(_string, length=BYTE),  # of Python 2
    pickle.BINSTRING: partial(_string, length=INT),
    pickle.SHORT_BINUNICODE: partial(_string, length=BYTE),
    pickle.BINUNICODE: partial(_string, length=INT),
    pickle.BINUNICODE8: partial(_string, length=LONG),
    pickle.SHORT_BINBYTES: partial(_string, length=BYTE, text=False),
    pickle.BINBYTES: partial(_string, length=INT, text=False),
    pickle.BINBYTES8: partial(_string, length=LONG, text=False),
    pickle.EMPTY_TUPLE: partial(_value, value=()),
    pickle.EMPTY_LIST: partial(_empty, kind=list),
    pickle.EMPTY_DICT: partial(_empty, kind=dict),
    pickle.MARK: _mark,
    pickle.TUPLE: _tuple,
    pickle.TUPLE1: partial(_short_tuple, size=1),
    pickle.TUPLE2: partial(_short_tuple, size=2),
    pickle.TUPLE3: partial(_short_tuple, size=3),
    pickle.APPEND: _append,
    pickle.APPENDS: _appends,
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: _set_items,
    pickle.BINPUT: partial(_remember, form=BYTE),
    pickle.LONG_BINPUT: partial(_remember, form=INT),
    pickle.MEMOIZE: _memoize,
    pickle.BINGET: partial(_recall, form=BYTE),
    pickle.LONG_BINGET: partial(_recall, form=INT),
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _reduce,
    pickle.BUILD: _build,
    pickle.BINPERSID: _persistent_id,
}
