"""Bytes that a compiled program transfers between devices, from its text (optimized HLO).

Bytes are those that a device receives by the ring algorithms, which are optimal. In a group of n devices R
bytes of the result take R (n - 1) / n for an all-gather, twice that for an all-reduce, R (n - 1) for a
reduce-scatter, and R for a permutation.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

RECEIVED = {
    "all-gather": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1.0,
    "reduce-scatter": lambda n: n - 1.0,
}
"""Bytes received for a byte of the result, by the size of the group."""

BITS = {"pred": 8, "bf16": 16}
"""Bits of an element, for types without a number of bits in their name."""

COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
CALLED = re.compile(r"\b(?:body|calls|true_computation|false_computation)=%?([\w.-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Instruction(NamedTuple):
    """`name = shape kind(rest`, as a line of the text has it."""

    name: str
    shape: str
    kind: str
    rest: str


def received_bytes(text: str) -> dict[str, float]:
    """Bytes that each device receives when the program runs once, by kind of transfer.

    Raises:
        ValueError: a transfer is in a loop with an unknown number of iterations.
    """
    computations = parse(text)
    devices = int((re.search(r"num_partitions=(\d+)", text) or ["", 1])[1])
    total: Counter[str] = Counter()
    for name, times in runs(text, computations).items():
        found = {i.name: i for i in computations[name]}
        for instruction in computations[name]:
            kind = instruction.kind.removesuffix("-done")
            if kind not in RECEIVED:  # a start repeats its done, with its operand
                continue
            start = instruction
            if kind != instruction.kind:
                start = found[re.match(r".*?%?([\w.-]+)\)", instruction.rest)[1].split("%")[-1]]
            n = devices if kind == "collective-permute" else group_size(start.rest, devices)
            if math.isnan(times) and n > 1:
                raise ValueError(f"{name} has a transfer, and its loop has an unknown number of iterations")
            total[kind] += times * RECEIVED[kind](n) * size(instruction.shape)
    return dict(total)


def parse(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each computation."""
    computations: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if begins := COMPUTATION.match(line):
            computations[begins[1]] = []
        elif (found := INSTRUCTION.match(line)) and computations:
            [*computations.values()][-1].append(Instruction(*found.groups()))
    return computations


def runs(text: str, computations: dict[str, list[Instruction]]) -> dict[str, float]:
    """How often each computation runs; NaN if unknown."""
    entry = re.search(r"^ENTRY %?([\w.-]+) ", text, re.MULTILINE)[1]
    total: Counter[str] = Counter()

    def visit(name: str, times: float) -> None:
        total[name] += times
        for instruction in computations[name]:
            trips = 1.0
            if instruction.kind == "while":
                known = TRIPS.search(instruction.rest)
                trips = float(known[1]) if known else math.nan
            for called in CALLED.findall(instruction.rest):
                visit(called, times * trips)
            for branches in re.findall(r"branch_computations=\{([^}]*)\}", instruction.rest):
                for branch in branches.split(","):
                    visit(branch.strip(" %"), times)

    visit(entry, 1.0)
    return total


def size(shape: str) -> int:
    """Bytes of an array, or of all in a tuple: f32[8,16]{1,0}."""
    found = re.findall(r"\b([a-z]+\d*)\w*\[([\d,]*)\]", shape)
    return sum(bits(kind) * math.prod(int(n) for n in dims.split(",") if n) // 8 for kind, dims in found)


def bits(kind: str) -> int:
    """Bits of an element: f32, bf16, pred."""
    return BITS.get(kind) or int(re.search(r"\d+", kind)[0])


def group_size(attributes: str, devices: int) -> int:
    """The number of devices in a group, in either form: {{0,1},{2,3}} or [2,2]<=[4]."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", attributes):
        return len(listed[1].split(","))
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(counted[1])
    return devices
