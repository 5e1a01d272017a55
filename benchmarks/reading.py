"""Images per second of training input from JPEG files, compared with decoding alone.

    python -m benchmarks.reading [--images 256] [--batches 24]

Both read and decode the same images in the same order with the same workers; "decoder" drops the pixels,
"input" also crops, resizes, flips and batches them. Rounds take turns; times are medians.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.lib.jpegs import write_images
from benchmarks.lib.report import arguments, report
from pddm_jax.data import Images, PKSampler, make_transform, train_batches
from pddm_jax.data.storage.decode import Encoded, Files
from pddm_jax.data.transforms import Transform

CLASSES, EACH, SIZE = 16, 4, 224


def rate(data: Images, transform: Transform, batches: int, workers: int) -> float:
    """Images per second, after the first batch."""
    sampler = PKSampler(data.labels, CLASSES, EACH, range(batches + 1), seed=0)
    reader = train_batches(data, sampler, transform, 0, workers)
    next(reader)
    since = time.perf_counter()
    count = sum(len(batch.labels) for batch in reader)
    return count / (time.perf_counter() - since)


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batches", type=int, default=24, help="of 64 images, a round")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()

    nothing = np.zeros((1, 1, 3), np.uint8)
    whole = make_transform("crop", SIZE, 0, 0.16, True, 1.143, 0.0)
    transforms = {"decoder": whole._replace(train=lambda image, rng: nothing), "input": whole}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), given.images)
        data = Images(Encoded(Files(paths)), np.arange(given.images) // EACH, {})
        rows = []
        for workers in (0, 1, 2):
            rates: dict[str, list[float]] = {name: [] for name in transforms}
            for _ in range(given.rounds):
                for name, transform in transforms.items():
                    rates[name].append(rate(data, transform, given.batches, workers))
            decoder, whole_input = (statistics.median(rates[name]) for name in transforms)
            rows.append(
                {
                    "workers": workers,
                    "decoder, images/s": decoder,
                    "input": whole_input,
                    "share": whole_input / decoder,
                }
            )
        report("reading", rows, given.out)


if __name__ == "__main__":
    main()
