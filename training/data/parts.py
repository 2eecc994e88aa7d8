"""Folders that are the parts of a data set, and not its classes: train and test, images and labels.

Knows names and paths alone.
"""

import re
from collections.abc import Collection, Iterable, Sequence

_TRAIN = r"(?:train(?:ing)?|trn)"
_OTHER = (
    r"(?:val(?:id(?:ation)?)?|test(?:ing)?|tst|dev|eval(?:uation)?|hold[ _-]?out|held[ _-]?out|pred|fold|"
    r"unlabell?ed)"
)
_FILLER = r"(?:sets?|data(?:set)?|images?|imgs?|split|samples?|seg|[0-9]|[ ._-]|[ab]$)"
_PART = re.compile(f"{_FILLER}*(?:{_TRAIN}|{_OTHER})(?:{_TRAIN}|{_OTHER}|{_FILLER})*")
_IMAGES = re.compile(r"images?(?:tr|ts)?|imgs?|jpe?gimages|jpe?gs?|pngs?|photos?|pictures?")
_LABELS = re.compile(r"labels?(?:txt|tr|ts)?|annotations?|annos?|masks?|bboxes|xmls?|jsons?|imagesets")
_COMMON = 2


def part_names(names: Iterable[str]) -> list[str]:
    """Those of the names that the parts of a data set have."""
    return sorted(name for name in names if _is_part(name))


def are_parts(names: Collection[str]) -> bool:
    """Whether folders beside each other are a data set's parts.

    They are where all names are those of parts, where one part is for training and another for tests, and
    where images lie beside labels.
    """
    several = sorted(names)
    if len(several) < 2:
        return False
    inner = _without_what_they_share(several)
    parts = [name for name in inner if _is_part(name)]
    if len(parts) == len(several):
        return True
    train = [name for name in parts if _is_train(name)]
    if train and len(train) < len(parts):
        return True
    lower = [name.lower() for name in several]
    return any(map(_IMAGES.fullmatch, lower)) and any(map(_LABELS.fullmatch, lower))


def class_root(paths: Sequence[Sequence[str]]) -> list[str] | None:
    """Where the class folders are, as steps down through parts and single folders.

    Args:
        paths: The images, each as its steps.

    Returns:
        Nothing where the folders here are the classes; None where there is no place with class folders.
    """
    tops = sorted({steps[0] for steps in paths if len(steps) > 1})
    if not tops:
        return None
    if len(tops) > 1 and not are_parts(tops):
        return []
    for top in sorted(tops, key=lambda name: not _is_train(name)):
        below = class_root([steps[1:] for steps in paths if steps[0] == top])
        if below is not None:
            return [top, *below]
    return None


def repeated_folders(paths: Sequence[Sequence[str]]) -> list[str]:
    """Sub-folders that every folder has, where no folder has images beside its sub-folders."""
    inside: dict[str, set[str]] = {}
    for steps in paths:
        if len(steps) == 2:
            return []
        inside.setdefault(steps[0], set()).add(steps[1])
    common = set.intersection(*inside.values()) if inside else set[str]()
    return sorted(common) if len(common) >= _COMMON else []


def _is_part(name: str) -> bool:
    return _PART.fullmatch(name.lower()) is not None


def _is_train(name: str) -> bool:
    return re.search(_TRAIN, name.lower()) is not None


def _without_what_they_share(names: Sequence[str]) -> list[str]:
    """The names without first and last words that all have, as `birds_train` and `birds_test` do."""
    words = [re.split(r"[ ._-]+", name) for name in names]
    for place in (0, -1):
        while all(len(one) > 1 for one in words) and len({one[place] for one in words}) == 1:
            for one in words:
                one.pop(place)
    return [" ".join(one) for one in words]
