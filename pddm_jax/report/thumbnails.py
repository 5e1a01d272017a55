"""Thumbnails: images scaled down, as WebP in `data:` URLs, within a limit of bytes."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from pddm_jax.data.images import ImageSequence

QUALITY = 60
"""Of WebP, 0 to 100."""


def webp(image: UInt8[np.ndarray, "h w c"], side: int) -> bytes:
    """The image, scaled down to at most `side` pixels in width and height, as WebP."""
    picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
    picture.thumbnail((side, side))
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=QUALITY)
    return file.getvalue()


@dataclass
class Thumbnails:
    """Makes thumbnails of at most `side` pixels; `left` bytes may be used, and below 0 none is made."""

    side: int
    left: int

    def url(self, images: ImageSequence, index: int) -> str | None:
        """The thumbnail of an image as a `data:` URL; None once one did not fit into the bytes left."""
        if self.left < 0:
            return None
        url = f"data:image/webp;base64,{base64.b64encode(webp(images[index], self.side)).decode()}"
        self.left -= len(url)
        return url if self.left >= 0 else None
