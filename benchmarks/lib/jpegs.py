"""Made JPEG files of the size of photographs."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, count: int) -> list[Path]:
    """JPEGs of 500 x 375 pixels with smooth and rough parts."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths
