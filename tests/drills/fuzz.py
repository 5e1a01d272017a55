"""A fuzzer of everything that a user can hand to the library: one readable line, or the right value.

    python -m tests.drills.fuzz --inputs=10000 --report=FILE.md --seed=0
    python -m tests.drills.fuzz --target=nearest --case="LITERAL"

The first command draws inputs with Hypothesis, shares them out over the targets, and counts right values,
refusals and failures of each; the second runs one of these inputs again, with the traceback. Every target
runs in a process of its own, with bounded memory: one that stands still or is killed is a failure, too.
"""

import argparse
import ast
import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from importlib import import_module
from pathlib import Path

MODULES = (
    *("search", "losses", "units", "shapes", "images", "folders", "tables", "archives"),
    *("weights", "configs", "runs"),
)
STILL = 180  # seconds without an input done after which a process counts as hung
KEPT = 25  # failures of a target that a report shows


def targets():
    """All targets by name."""
    found = [t for name in MODULES for t in import_module(f"tests.drills.fuzz_{name}").TARGETS]
    return {target.name: target for target in found}


def limit_memory(spare):
    """Let this process take only so many bytes more than it holds."""
    held = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + spare, held + spare))


def fuzz(target, inputs, seed, report):
    """Draw inputs of a target; `report(kind, case, text)` hears of each."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    from tests.drills.fuzz_core import Wrong

    @seeded(seed)
    @settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.cases)
    def one(case):
        report("begun", case, "")
        try:
            report(target.check(case), case, "")
        except Wrong as error:
            report("failures", case, str(error))
        except Exception as error:
            report("failures", case, f"{type(error).__name__}: {error}")

    one()


def work(name, inputs, seed):
    """The process of a target: a line of JSON on standard output for each input."""
    from tests.drills.fuzz_core import silence

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence()
    target = targets()[name]

    def report(kind, case, text):
        out.write(json.dumps([kind, repr(case), text]) + "\n")
        out.flush()

    limit_memory(target.memory)
    fuzz(target, inputs, seed, report)


def run(name, inputs, seed):
    """Counts by kind, and failures as (case, text), of a target in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "tests.drills.fuzz",
        f"--target={name}",
        f"--inputs={inputs}",
        f"--seed={seed}",
        "--work",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    counts, failures, last = Counter(), [], ""
    heard = time.monotonic()
    errors = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr.readlines()[-5:]), daemon=True)
    reader.start()
    stop = threading.Event()

    def watch():
        while not stop.wait(1):
            if time.monotonic() - heard > STILL:
                process.kill()
                return

    threading.Thread(target=watch, daemon=True).start()
    for line in process.stdout:
        heard = time.monotonic()
        kind, case, text = json.loads(line)
        last = case
        if kind == "begun":
            continue
        counts[kind] += 1
        if kind == "failures":
            failures.append((case, text))
    stop.set()
    code = process.wait()
    reader.join(5)
    if code:
        counts["failures"] += 1
        failures.append((last, f"the process ended with {code}: {' '.join(errors)[-400:]}"))
    return counts, failures


def table(found, seconds):
    """The report as Markdown."""
    kinds = "right values", "refusals", "failures"
    total = Counter()
    lines = [
        "# Fuzz",
        "",
        "| target | inputs | right values | refusals | failures |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, (counts, _) in found.items():
        total += counts
        lines.append(
            f"| {name} | {counts.total()} | " + " | ".join(str(counts[kind]) for kind in kinds) + " |"
        )
    lines += [f"| all | {total.total()} | " + " | ".join(str(total[kind]) for kind in kinds) + " |", ""]
    lines += [f"{seconds:.0f} seconds.", ""]
    for name, (_, failures) in found.items():
        for case, text in failures[:KEPT]:
            lines += [f"- `python -m tests.drills.fuzz --target={name} --case={case!r}`", f"  {text}"]
        lines += [f"- {name}: and {len(failures) - KEPT} more"] * (len(failures) > KEPT)
    return "\n".join(lines) + "\n"


def main():
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--target", action="append")
    parser.add_argument("--case")
    parser.add_argument("--work", action="store_true")
    given = parser.parse_args()
    if given.work:
        return work(given.target[0], given.inputs, given.seed)
    known = targets()
    if given.case is not None:
        return print(known[given.target[0]].check(ast.literal_eval(given.case)))
    chosen = [known[name] for name in given.target or known]
    shares = sum(target.share for target in chosen)
    found, start = {}, time.monotonic()
    for target in chosen:
        found[target.name] = run(target.name, -(-given.inputs * target.share // shares), given.seed)
        print(f"{target.name}: {dict(found[target.name][0])}", file=sys.stderr, flush=True)
        text = table(found, time.monotonic() - start)
        if given.report:
            given.report.write_text(text, encoding="utf-8")
    print(text)
    return sys.exit(any(failures for _, failures in found.values()))


if __name__ == "__main__":
    main()
