"""PyTorch's pickles without running anything: a stack machine of the opcodes that tensors need.

`pickle.Unpickler` cannot be bounded: it grows its memo to whatever index a file names. Here the memo is a
table, every opcode makes at most one small object, and the number of opcodes is limited. A pickle may name
only `GLOBALS`, which describe data.
"""

import pickletools
from typing import Any

from pddm_jax.networks.pretrained.pickle_opcodes import MAX_BYTES, MAX_OPCODES, OPCODES, STOP, PickleStack

__all__ = ["MAX_BYTES", "MAX_OPCODES", "PickleReader"]


class PickleReader(PickleStack):
    """Reads one pickle after another from a file; `storages` are those that the last one refers to."""

    def load(self) -> Any:
        """The next pickle: dicts, lists, tuples, scalars and strings, and a `Layout` for each tensor.

        Raises:
            ValueError: it is damaged, names a global that is not in `GLOBALS`, or exceeds the limits.
        """
        self.stack, self.marks, self.memo, self.storages = [], [], {}, {}
        read, opcodes = self.file.read, OPCODES
        try:
            while (code := read(1)) != STOP:
                self.spend(1)
                opcode = opcodes.get(code)
                if opcode is None:
                    raise ValueError(_refusal(code))
                opcode(self)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"its pickle is damaged before byte {self.file.tell()}") from error
        if len(self.stack) != 1 or self.marks:
            raise ValueError(f"its pickle is damaged before byte {self.file.tell()}")
        return self.stack.pop()


def _refusal(code: bytes) -> str:
    if not code:
        return "it ends within its pickle"
    names = [opcode.name for opcode in pickletools.opcodes if opcode.code.encode("latin-1") == code]
    name = names[0] if names else f"0x{code[0]:02x}"
    return f"its pickle has the opcode {name}, which tensors do not need"
