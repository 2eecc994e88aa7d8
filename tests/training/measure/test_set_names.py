"""Sets are called by the last step of their path where that tells them apart."""

from dataclasses import replace

import pytest

from training.data.records import Dataset
from training.measure.set_names import set_names


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["photos/val", "/data/art"], ["val", "art"]),
        (["x.zip::pacs/photo", "x.zip::pacs/sketch"], ["photo", "sketch"]),
        (["few.npz", "PACS.ZIP", "v1.5"], ["few", "PACS", "v1.5"]),
        (["a/val", "b/val", "digits"], ["a/val", "b/val", "digits"]),
        (["digits", "digits"], ["digits", "digits (2)"]),
        (["few.npz::test"], ["test"]),
    ],
)
def test_names_are_short_and_unique(dataset: Dataset, sources: list[str], names: list[str]) -> None:
    found = set_names([replace(dataset, name=source) for source in sources], [None, ("noise", 3)])
    assert [found[i, 0] for i in range(len(sources))] == names
    assert [found[i, 1] for i in range(len(sources))] == [f"{name} noise:3" for name in names]
