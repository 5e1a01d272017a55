"""The exact nearest neighbours of every image of a set, against FAISS.

    pip install -e ".[peers]"    # without FAISS `nearest` is measured alone
    JAX_NUM_CPU_DEVICES=2 python -m benchmarks.retrieval [--images 60000] [--d 128] [--k 1 10 33]

Both search the set for each of its images, on the same cores: FAISS by inner products (IndexFlatIP),
`nearest` by distances, which rank embeddings of unit length alike. They take turns;
ratios are within one run.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import numpy as np

from benchmarks.lib.report import arguments, report
from benchmarks.lib.timing import interleaved
from pddm_jax import nearest
from pddm_jax.system.processes import cores


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """The share of the exact neighbours that were found."""
    return float(np.mean((np.sort(exact)[:, :, None] == np.sort(found)[:, None]).any(axis=2)))


def searched_by_faiss(x: np.ndarray) -> Callable[[int], np.ndarray] | None:
    """What finds the k nearest to each row of x by FAISS; None where it is not installed."""
    try:
        import faiss
    except ModuleNotFoundError:
        return None
    faiss.omp_set_num_threads(cores())
    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    return lambda k: index.search(x, k)[1]


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
    by_faiss = searched_by_faiss(x)
    peer = version("faiss-cpu") if by_faiss else "not installed"
    rows = []
    for k in given.k:
        forms = {
            "exact": lambda k=k: nearest(x, x, k)[1],
            "approx": lambda k=k: nearest(x, x, k, approx=True)[1],
        }
        if by_faiss:
            forms["FAISS"] = partial(by_faiss, k)
        found = {name: np.asarray(form()) for name, form in forms.items()}
        seconds = interleaved(forms, given.rounds, calls=2)
        row = {"k": k, "nearest, s": seconds["exact"]}
        if by_faiss:
            row |= {
                "FAISS, s": seconds["FAISS"],
                "ratio": seconds["exact"] / seconds["FAISS"],
                "same neighbours": float(np.mean(found["exact"] == found["FAISS"])),
            }
        row |= {"approx, s": seconds["approx"], "its recall": recall(found["approx"], found["exact"])}
        rows.append(row)
    report("retrieval", rows, given.out, images=given.images, d=given.d, faiss=peer)


if __name__ == "__main__":
    main()
