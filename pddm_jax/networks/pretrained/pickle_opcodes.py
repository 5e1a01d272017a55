"""Opcodes of pickles (protocols 2 to 5) that tensors need, on a stack machine whose work is bounded."""

import pickle
import struct
from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import IO, Any

import numpy as np

from pddm_jax.networks.pretrained.pickle_globals import GLOBALS, dict_key
from pddm_jax.networks.pretrained.tensor_layout import Storage, printable

MAX_OPCODES = 1_000_000
"""About 40 are needed for a tensor."""
MAX_BYTES = 16 * 2**20
MAX_STRING = 2**20
MAX_GLOBAL = 200  # characters of a module or a name


class PickleStack:
    """State of a pickle machine that reads a file: stack, marks, memo, and the rest of its limits.

    All pickles of the file together may take `MAX_OPCODES` and `MAX_BYTES`.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.opcodes, self.bytes = MAX_OPCODES, MAX_BYTES
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def spend(self, opcodes: int) -> None:
        """Count opcodes, or work of as many, against the limit."""
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
        """Pop everything above the last mark."""
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def find(self, module: Any, name: Any) -> None:
        """Push the global of this name."""
        path = f"{module}.{name}" if type(module) is str and type(name) is str else ""
        if path not in GLOBALS:
            raise ValueError(f"it asks for {printable(path)}, which is refused")
        self.stack.append(GLOBALS[path])


def _protocol(machine: PickleStack) -> None:
    (version,) = machine.take(1)
    if not 2 <= version <= 5:
        raise ValueError(f"its pickle has protocol {version}, not 2 to 5")


def _frame(machine: PickleStack) -> None:
    machine.take(8)  # a hint for readers that buffer


def _push(machine: PickleStack, value: Any) -> None:
    machine.stack.append(value)


def _push_new(machine: PickleStack, kind: type) -> None:
    machine.stack.append(kind())


def _push_number(machine: PickleStack, form: struct.Struct) -> None:
    machine.stack.append(*form.unpack(machine.take(form.size)))


def _push_long(machine: PickleStack) -> None:
    (size,) = machine.take(1)
    machine.stack.append(int.from_bytes(machine.take(size), "little", signed=True))


def _push_string(machine: PickleStack, length: struct.Struct, text: bool = True) -> None:
    (size,) = length.unpack(machine.take(length.size))
    found = machine.take(size)
    machine.stack.append(found.decode() if text else found)


def _global(machine: PickleStack) -> None:
    lines = [machine.file.readline(MAX_GLOBAL) for _ in range(2)]
    if not all(line.endswith(b"\n") for line in lines):
        raise ValueError("its pickle has a global without a name")
    machine.find(*(line[:-1].decode() for line in lines))


def _stack_global(machine: PickleStack) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.find(module, name)


def _mark(machine: PickleStack) -> None:
    machine.marks.append(len(machine.stack))


def _tuple(machine: PickleStack) -> None:
    machine.stack.append(tuple(machine.items()))


def _short_tuple(machine: PickleStack, size: int) -> None:
    found = [machine.stack.pop() for _ in range(size)]
    machine.stack.append(tuple(found[::-1]))


def _append(machine: PickleStack) -> None:
    _extend(machine, [machine.stack.pop()])


def _appends(machine: PickleStack) -> None:
    _extend(machine, machine.items())


def _extend(machine: PickleStack, values: list[Any]) -> None:
    if type(machine.stack[-1]) is not list:
        raise TypeError
    machine.stack[-1].extend(values)


def _set_item(machine: PickleStack) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine, [key, value])


def _set_items(machine: PickleStack) -> None:
    _update(machine, machine.items())


def _update(machine: PickleStack, items: list[Any]) -> None:
    if type(machine.stack[-1]) is not dict or len(items) % 2:
        raise TypeError
    for key, value in zip(items[::2], items[1::2], strict=True):
        machine.stack[-1][dict_key(key)] = value


def _put(machine: PickleStack, form: struct.Struct) -> None:
    (index,) = form.unpack(machine.take(form.size))
    machine.memo[index] = machine.stack[-1]


def _memoize(machine: PickleStack) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _get(machine: PickleStack, form: struct.Struct) -> None:
    (index,) = form.unpack(machine.take(form.size))
    machine.stack.append(machine.memo[index])


def _reduce(machine: PickleStack) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    if type(arguments) is not tuple or not isinstance(function, FunctionType):
        raise TypeError
    # The memo may give one list to many dicts, so its items count each time.
    machine.spend(sum(len(argument) for argument in arguments if type(argument) is list))
    machine.stack.append(function(*arguments))


def _build(machine: PickleStack) -> None:
    """Drop the attributes of an OrderedDict: a state_dict has its versions there."""
    state = machine.stack.pop()
    if type(state) is not dict or type(machine.stack[-1]) is not dict:
        raise TypeError


def _persistent_id(machine: PickleStack) -> None:
    found = machine.stack.pop()
    if type(found) is not tuple or len(found) not in (5, 6) or found[0] != "storage":
        raise ValueError("it has a persistent id that is not a storage")
    _, dtype, key, _, length, *view = found
    if not isinstance(dtype, np.dtype) or not all(x is None for x in view):
        raise ValueError("it has a persistent id that is not a storage")
    storage = Storage(key, dtype, length)
    if machine.storages.setdefault(key, storage) != storage:
        raise ValueError(f"storage {printable(key)} is described twice, differently")
    machine.stack.append(storage)


BYTE, SHORT, INT, LONG = (struct.Struct(f"<{form}") for form in "BHIQ")
STOP = b"."
OPCODES: dict[bytes, Callable[[PickleStack], None]] = {
    pickle.PROTO: _protocol,
    pickle.FRAME: _frame,
    pickle.NONE: partial(_push, value=None),
    pickle.NEWTRUE: partial(_push, value=True),
    pickle.NEWFALSE: partial(_push, value=False),
    pickle.BININT: partial(_push_number, form=struct.Struct("<i")),
    pickle.BININT1: partial(_push_number, form=BYTE),
    pickle.BININT2: partial(_push_number, form=SHORT),
    pickle.BINFLOAT: partial(_push_number, form=struct.Struct(">d")),
    pickle.LONG1: _push_long,
    pickle.SHORT_BINSTRING: partial(_push_string, length=BYTE),  # of Python 2
    pickle.BINSTRING: partial(_push_string, length=INT),
    pickle.SHORT_BINUNICODE: partial(_push_string, length=BYTE),
    pickle.BINUNICODE: partial(_push_string, length=INT),
    pickle.BINUNICODE8: partial(_push_string, length=LONG),
    pickle.SHORT_BINBYTES: partial(_push_string, length=BYTE, text=False),
    pickle.BINBYTES: partial(_push_string, length=INT, text=False),
    pickle.BINBYTES8: partial(_push_string, length=LONG, text=False),
    pickle.EMPTY_TUPLE: partial(_push, value=()),
    pickle.EMPTY_LIST: partial(_push_new, kind=list),
    pickle.EMPTY_DICT: partial(_push_new, kind=dict),
    pickle.MARK: _mark,
    pickle.TUPLE: _tuple,
    pickle.TUPLE1: partial(_short_tuple, size=1),
    pickle.TUPLE2: partial(_short_tuple, size=2),
    pickle.TUPLE3: partial(_short_tuple, size=3),
    pickle.APPEND: _append,
    pickle.APPENDS: _appends,
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: _set_items,
    pickle.BINPUT: partial(_put, form=BYTE),
    pickle.LONG_BINPUT: partial(_put, form=INT),
    pickle.MEMOIZE: _memoize,
    pickle.BINGET: partial(_get, form=BYTE),
    pickle.LONG_BINGET: partial(_get, form=INT),
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _reduce,
    pickle.BUILD: _build,
    pickle.BINPERSID: _persistent_id,
}
