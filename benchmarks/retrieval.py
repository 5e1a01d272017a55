"""The exact nearest neighbours of every image of a set, against FAISS.

    pip install -e ".[peers]"
    JAX_NUM_CPU_DEVICES=2 python -m benchmarks.retrieval [--images 60000] [--d 128] [--k 1 10 33]

Both search the set for each of its images, on the same cores: FAISS by inner products (IndexFlatIP),
`nearest` by distances, which rank embeddings of unit length alike. They take turns;
ratios are within one run.
"""

import faiss
import numpy as np

from benchmarks.report import arguments, report
from benchmarks.timing import interleaved
from pddm_jax import nearest
from pddm_jax.cores import cores


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact neighbours that were found."""
    return float(np.mean((np.sort(exact)[:, :, None] == np.sort(found)[:, None]).any(axis=2)))


def main() -> None:
    """Measure and print a table."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 10, 33])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()

    x = np.random.default_rng(0).normal(size=(given.images, given.d)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    faiss.omp_set_num_threads(cores())
    index = faiss.IndexFlatIP(given.d)
    index.add(x)
    rows = []
    for k in given.k:
        found, theirs = np.asarray(nearest(x, x, k)[1]), index.search(x, k)[1]
        about = np.asarray(nearest(x, x, k, approx=True)[1])
        seconds = interleaved(
            {
                "exact": lambda k=k: nearest(x, x, k)[1],
                "approx": lambda k=k: nearest(x, x, k, approx=True)[1],
                "faiss": lambda k=k: index.search(x, k)[1],
            },
            given.rounds,
            calls=2,
        )
        rows.append(
            {
                "k": k,
                "nearest, s": seconds["exact"],
                "FAISS, s": seconds["faiss"],
                "ratio": seconds["exact"] / seconds["faiss"],
                "same neighbours": float(np.mean(found == theirs)),
                "approx, s": seconds["approx"],
                "its recall": recall(about, found),
            }
        )
    report("retrieval", rows, given.out, images=given.images, d=given.d, faiss=faiss.__version__)


if __name__ == "__main__":
    main()
