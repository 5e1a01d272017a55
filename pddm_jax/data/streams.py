"""Random numbers by what they are for and where they are used: no state, no two streams alike."""

import numpy as np

SPLIT, BATCH, IMAGE, GALLERY, HOLD_OUT, HALVES, WAYS = range(7)


def stream(seed: int, purpose: int, place: int = 0) -> np.random.Generator:
    """The stream of one seed (0 or above), one of the purposes above, and one place in its sequence."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, 0, place]))
