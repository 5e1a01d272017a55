"""Class means of synthetic features in one pass, compared with reading the same bytes by NumPy.

    python -m benchmarks.class_means [--images 4500000] [--d 512] [--classes 10184]

The features are in a file, which is read as a memory map block by block: by NumPy into new arrays, by NumPy
into one array, and by `class_means`, which also adds. They take turns; times are medians. Memory is that of
the process without the pages of the file, sampled while the means are computed.
"""

import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.lib.report import arguments, report
from pddm_jax.transfer.class_means import ClassMeans, class_means

BLOCK = 2**17
"""Rows of a block."""

CHECKED = 20
"""Classes with means that are computed again, in float64 by masks."""


def make(path: Path, images: int, d: int) -> np.ndarray:
    """Features in a file, as a memory map."""
    rng = np.random.default_rng(0)
    features = np.lib.format.open_memmap(path, "w+", np.float32, (images, d))
    for start in range(0, images, BLOCK):
        part = features[start : start + BLOCK]
        part[:] = rng.random(part.shape, np.float32)
    features.flush()
    del features
    return np.load(path, mmap_mode="r")


def blocks(features: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Features and labels, some rows at a time."""
    for start in range(0, len(labels), BLOCK):
        yield features[start : start + BLOCK], labels[start : start + BLOCK]


def held() -> float:
    """The MiB of anonymous memory of the process, without pages of files."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def peak_of(function: Callable[[], object]) -> float:
    """The maximum MiB by which the process grows while a function runs."""
    before, most, ended = held(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            most[0] = max(most[0], held() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    function()
    ended.set()
    watcher.join()
    return most[0]


def error(means: ClassMeans, features: np.ndarray, labels: np.ndarray) -> float:
    """The largest relative error of the means of some classes."""
    chosen = np.random.default_rng(1).choice(means.classes, min(CHECKED, len(means.classes)), replace=False)
    sums = np.zeros((len(chosen), features.shape[1]))
    for x, of in blocks(features, labels):
        for row, c in enumerate(chosen):
            sums[row] += x[of == c].sum(axis=0, dtype=np.float64)
    expected = sums / np.array([(labels == c).sum() for c in chosen])[:, None]
    found = means.centroids()[np.searchsorted(means.classes, chosen)]
    return float(np.max(np.abs(found - expected) / np.abs(expected)))


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=4_500_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10_184)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the file of features goes")
    given = parser.parse_args()
    labels = np.random.default_rng(2).integers(0, given.classes, given.images)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        features = make(Path(folder) / "features.npy", given.images, given.d)
        array = np.empty((BLOCK, given.d), np.float32)
        made: list[ClassMeans] = []

        def into_one() -> None:
            for x, _ in blocks(features, labels):
                np.copyto(array[: len(x)], x)

        functions = {
            "NumPy, new arrays": lambda: [np.array(x) is None for x, _ in blocks(features, labels)],
            "NumPy, one array": into_one,
            "class_means": lambda: made.append(class_means(blocks(features, labels))),
        }
        seconds: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(given.rounds):
            for name, function in functions.items():
                since = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - since)
        memory = peak_of(lambda: class_means(blocks(features, labels)))
        wrong = error(made[-1], features, labels)
        took = {name: statistics.median(of) for name, of in seconds.items()}
    rows = [
        {
            "read by": name,
            "s": of,
            "GB/s": features.nbytes / of / 1e9,
            **{f"{other} / this": took[other] / of for other in took if other.startswith("NumPy")},
        }
        for name, of in took.items()
    ]
    report("class_means", rows, given.out, peak_mib=memory, relative_error=wrong, seconds=seconds)
    print(f"{memory:.0f} MiB besides the file; largest relative error of {CHECKED} classes {wrong:.1e}")


if __name__ == "__main__":
    main()
