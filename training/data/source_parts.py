"""The parts that a set was published in, and which of them training and measuring take."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from petl_vit.errors import InvalidInput, NotFound, near
from training.data.records import INSIDE, Dataset, listed

JOIN = "+"
"""Between parts that are taken together, as in `set::train+val`."""

_TRAIN = re.compile(r"train(?:ing)?|trn")
_VALIDATION = re.compile(r"val(?:id(?:ation)?)?|dev")
_TEST = re.compile(r"test(?:ing)?|tst")


@dataclass(frozen=True, kw_only=True)
class SourceParts:
    """What a source means that was published in parts; all but the names are sources themselves.

    Attributes:
        names: All parts.
        training: What a run trains on.
        heldout: What such a run holds out; None where that is a share of `training`.
        tested: What is measured afterwards.
        tuning: What a search trains on, and what it validates on; None where there are no such parts.
        final: What the winner of a search trains on.
    """

    names: tuple[str, ...]
    training: str
    heldout: str | None
    tested: str
    tuning: tuple[str, str] | None
    final: str


class Published(Protocol):
    """A source that may have been published in parts."""

    @property
    def origin(self) -> str:
        """How it was written, without a part."""

    @property
    def names(self) -> tuple[str, ...]:
        """Its parts; none where it is in one piece."""

    def parts(self) -> SourceParts | None:
        """What it means without a part; None where it is in one piece, or its parts do not say."""

    def dataset(self, names: Sequence[str]) -> Dataset:
        """The images of these parts; of none, where it is in one piece, all."""


def by_usual_names(source: str, names: Sequence[str]) -> SourceParts | None:
    """What the parts of a source mean by their names; None where it has none, or none is for training.

    Training holds out the part for validation, so that the one for tests stays new; where there is none, the
    one for tests.
    """

    def called(kind: re.Pattern[str]) -> str | None:
        return next((name for name in names if kind.fullmatch(name.lower())), None)

    train, validation, test = called(_TRAIN), called(_VALIDATION), called(_TEST)
    train = names[0] if train is None and len(names) == 1 else train
    if train is None:
        return None
    heldout = validation or test
    both = f"{train}{JOIN}{validation}" if validation else train

    def part(name: str) -> str:
        return f"{source}{INSIDE}{name}"

    return SourceParts(
        names=tuple(names),
        training=part(train),
        heldout=part(heldout) if heldout else None,
        tested=part(test or validation or train),
        tuning=(part(train), part(validation)) if validation else None,
        final=part(both),
    )


def open_part(source: Published, part: str, field: str, *, measured: bool) -> Dataset:
    """The images of some parts, joined by `+`; without a part those for training, or those for tests.

    Raises:
        NotFound: There is no such part.
        InvalidInput: The parts do not say which is meant, or there are none.
    """
    if not source.names:
        if part:
            raise InvalidInput(
                f"{source.origin} is not in parts", field=field, remedy=f"write {source.origin} for all of it"
            )
        return source.dataset([])
    if not part:
        parts = source.parts()
        if parts is None:
            raise InvalidInput(
                f"{source.origin} has the parts {listed(source.names)}, none of which is called train",
                field=field,
                remedy=f"name one, as in {source.origin}{INSIDE}{source.names[0]}",
            )
        part = (parts.tested if measured else parts.training).rpartition(INSIDE)[2]
    names = part.split(JOIN)
    for name in names:
        if name not in source.names:
            raise NotFound(
                f"{source.origin} has no part {name!r}",
                field=field,
                remedy=near(name, source.names) or f"it has {listed(source.names)}",
            )
    return source.dataset(list(dict.fromkeys(names)))
