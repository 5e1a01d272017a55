"""Images per second of preparing shards from a tar of tars, and of reading the headers of a tar.

    python -m benchmarks.preparing [--classes 16] [--images 128] [--members 100000]

By one process and by two. Rounds take turns; times are medians. Starting the processes counts.
"""

import statistics
import tarfile
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.lib.jpegs import write_images
from benchmarks.lib.report import arguments, report
from pddm_jax.data.layouts.imagenet import find_imagenet
from pddm_jax.data.prepare.command import prepare
from pddm_jax.data.prepare.shards import make
from pddm_jax.data.storage.tars import Place, members
from pddm_jax.system.processes import in_processes

SIZE = 110_000  # bytes of an image of ILSVRC, about


def write_release(root: Path, classes: int, images: int) -> Path:
    """Write a tar of one tar per class, all with the same images; returns the list of classes."""
    paths = write_images(root, images)
    wnids = [f"n{number:08d}" for number in range(classes)]
    inner = root / "inner.tar"
    with tarfile.open(inner, "w") as archive:
        for path in paths:
            archive.add(path, f"{path.stem}.JPEG")
    with tarfile.open(root / "train.tar", "w") as archive:
        for wnid in wnids:
            archive.add(inner, f"{wnid}.tar")
    (root / "wnids.txt").write_text("\n".join(wnids))
    return root / "wnids.txt"


def write_headers(path: Path, count: int) -> None:
    """Write a tar with holes between the headers."""
    with path.open("wb") as file:
        for number in range(count):
            member = tarfile.TarInfo(f"n01440764_{number}.JPEG")
            member.size = SIZE
            file.write(member.tobuf())
            file.seek(-(-SIZE // 512) * 512, 1)
        file.write(bytes(1024))


def seconds(root: Path, out: Path, classes: Path, workers: int) -> float:
    """The seconds to find the images and write their shards."""
    since = time.perf_counter()
    source = find_imagenet("imagenet", root, classes, None, workers=workers)
    prepare("imagenet", source, root, out, 256, False, partial(in_processes, make, workers=workers))
    return time.perf_counter() - since


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--classes", type=int, default=16)
    parser.add_argument("--images", type=int, default=128, help="of each class")
    parser.add_argument("--members", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()

    taken: dict[str, list[float]] = {"1 process": [], "2 processes": [], "headers": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        classes = write_release(root, given.classes, given.images)
        write_headers(root / "headers", given.members)
        for number in range(given.rounds):
            for workers, name in ((1, "1 process"), (2, "2 processes")):
                taken[name].append(seconds(root, root / f"{name} {number}", classes, workers))
            since = time.perf_counter()
            assert sum(1 for _ in members(Place(root / "headers"))) == given.members
            taken["headers"].append(time.perf_counter() - since)
    counts = dict.fromkeys(taken, given.classes * given.images) | {"headers": given.members}
    rows = [
        {"by": name, "images": counts[name], "images/s": counts[name] / statistics.median(times)}
        for name, times in taken.items()
    ]
    report("preparing", rows, given.out)


if __name__ == "__main__":
    main()
