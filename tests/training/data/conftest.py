from pathlib import Path

import numpy as np
import pytest

from tests.training.data.files import npz, pixels
from training.data.records import Dataset
from training.data.sources import load_dataset


@pytest.fixture
def uneven(tmp_path: Path) -> Dataset:
    """Classes of 40, 10, 2 and 1 images; every image has a value of its own."""
    labels = np.repeat([0, 1, 2, 3], [40, 10, 2, 1])
    return load_dataset(npz(tmp_path / "uneven.npz", images=pixels(53), labels=labels))
