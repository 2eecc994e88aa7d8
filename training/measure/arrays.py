"""The arrays that measurements are made of."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.float32]
"""Logits as they are stored."""
Labels = NDArray[np.int64]
Flags = NDArray[np.bool_]
