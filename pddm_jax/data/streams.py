"""Counter-based random numbers (Philox), keyed by seed, purpose and place; no two streams are alike."""

import numpy as np

SPLIT, BATCH, IMAGE, GALLERY, HOLD_OUT, HALVES, WAYS, REPORT = range(8)


def stream(seed: int, purpose: int, place: int = 0) -> np.random.Generator:
    """The generator of a seed (0 or above), one of the purposes above, and a place in its sequence."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, place]))
