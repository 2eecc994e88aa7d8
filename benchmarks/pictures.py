"""JPEG files for measurements: smooth random noise, which compresses like a photograph."""

import io

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 500, 375
_COARSE = (20, 15)


def jpeg(seed: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A JPEG, of 500 x 375 pixels where nothing else is said."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (*reversed(_COARSE), 3), np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), np.int16)
    grainy = smooth + generator.normal(0, 4, smooth.shape)
    out = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()
