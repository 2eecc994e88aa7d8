"""Short names of sets, for tables and figures."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

from training.data.records import INSIDE, Dataset
from training.measure.logits import Shift


def set_names(datasets: Sequence[Dataset], under: Sequence[Shift | None]) -> dict[tuple[int, int], str]:
    """A name for each set under each shift, by their places: unique, and as short as it can be.

    `photos/val` and `x.zip::pacs/sketch` are `val` and `sketch`; sets of one short name keep the whole one.
    """
    short = [_short(dataset.name) for dataset in datasets]
    counts = Counter(short)
    names = [one if counts[one] == 1 else d.name for one, d in zip(short, datasets, strict=True)]
    again = Counter[str]()
    for place, name in enumerate(names):
        again[name] += 1
        if again[name] > 1:
            names[place] = f"{name} ({again[name]})"
    return {
        (i, j): name if shift is None else f"{name} {shift[0]}:{shift[1]}"
        for i, name in enumerate(names)
        for j, shift in enumerate(under)
    }


def _short(name: str) -> str:
    path, _, part = name.partition(INSIDE)
    last = PurePath(part).name or PurePath(path).name
    stem, dot, ending = last.rpartition(".")
    return stem if dot and stem and ending.lower() in ("zip", "npz") else last or name
