"""Routes: the small algebra in which a request says which models answer it. Imports no torch.

    route   := [combine] "(" entry ("," entry)* ")" | entry ("," entry)*
             | "cascade" "(" model ("," model)+ ";" "loss" "<=" number ")"
    combine := "mean" | "prob" | "vote"              entry := [weight ":"] model
    model   := term ("+" term)*                      term  := [alpha "*"] adapter
    adapter := [task "/"] name [":" version | "@" alias]
    alpha   := number [".." number] ["[" block ["-" block] "]"]

The records hold the typed form and check themselves, so a route that came over the wire is held to
the same limits as one that was written by hand. What a name stands for is the store's knowledge.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from model_store.names import BASE, LATEST, check_name
from model_store.routes.alpha import Alpha, limits, number, text, weighed
from petl_vit.combine import Combine
from petl_vit.errors import InvalidInput

MAX_TEXT = 2_000
MAX_ENTRIES = 16
MAX_TERMS = 16
MAX_VERSION = 2**31 - 1
MAX_ALPHA = 100  # far beyond any use, and far from what overflows


@dataclass(frozen=True, kw_only=True)
class AdapterRef:
    """One adapter: a version, an alias, or neither, which means the alias `latest`.

    Raises:
        InvalidInput: A bad name, a version below 1, both suffixes, or a suffix on `base`.
    """

    name: str
    task: str | None = None
    version: int | None = None
    alias: str | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "adapter")
        if self.task is not None:
            check_name(self.task, "task")
        if self.alias is not None:
            check_name(self.alias, "alias")
        if self.version is not None and not 1 <= self.version <= MAX_VERSION:
            raise InvalidInput(
                f"{self.version} is not a version",
                field="version",
                remedy=f"versions are numbers from 1 to {MAX_VERSION}",
            )
        if self.version is not None and self.alias is not None:
            raise InvalidInput(
                f"adapter {self.name!r} has both a version and an alias", field="adapter", remedy="keep one"
            )
        if self.is_base and (self.version is not None or self.alias is not None):
            raise InvalidInput(
                "`base` is the frozen backbone and has no versions or aliases",
                field="adapter",
                remedy="write `base` alone",
            )

    @property
    def is_base(self) -> bool:
        """Whether this is the frozen backbone with the task's base head."""
        return self.name == BASE

    @property
    def follows_latest(self) -> bool:
        """Whether it means the newest version, whichever that is."""
        return not self.is_base and self.version is None and self.alias in (None, LATEST)

    def __str__(self) -> str:
        task = f"{self.task}/" if self.task is not None else ""
        version = f":{self.version}" if self.version is not None else ""
        alias = f"@{self.alias}" if self.alias is not None else ""
        return f"{task}{self.name}{version}{alias}"


@dataclass(frozen=True, kw_only=True)
class Term:
    """An adapter's edits times alpha: 1 is as trained, 0 the frozen model; it may differ by block.

    Raises:
        InvalidInput: Alpha is not a number, or absurdly large.
    """

    adapter: AdapterRef
    alpha: Alpha = 1.0

    def __post_init__(self) -> None:
        bad = next((one for one in limits(self.alpha) if not abs(one) <= MAX_ALPHA), None)
        if bad is not None:
            raise InvalidInput(
                f"alpha {bad} of {self.adapter} is not a number from -{MAX_ALPHA} to {MAX_ALPHA}",
                field="alpha",
                remedy="0 is the frozen model and 1 the adapter as trained",
            )

    def __str__(self) -> str:
        return weighed(self.alpha, self.adapter)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model in weight space: the frozen one plus the sum of its terms.

    Raises:
        InvalidInput: No term, or more than `MAX_TERMS`.
    """

    terms: tuple[Term, ...]

    def __post_init__(self) -> None:
        _check_count(len(self.terms), MAX_TERMS, "terms in one sum")

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A member of an ensemble.

    Raises:
        InvalidInput: The weight is not a positive finite number.
    """

    model: Model
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise InvalidInput(
                f"weight {self.weight} of {self.model} is not a positive finite number",
                field="weight",
                remedy="leave a member out instead of giving it no weight",
            )

    def __str__(self) -> str:
        return str(self.model) if self.weight == 1 else f"{number(self.weight)}: {self.model}"


@dataclass(frozen=True, kw_only=True)
class Route:
    """The models that answer, and how their answers are combined.

    Attributes:
        loss: A cascade's: how much accuracy it may lose against asking all its members, as a share of the
            images.

    Raises:
        InvalidInput: No entry, or more than `MAX_ENTRIES`; a cascade of one member, with weights or without
            a loss from 0 to below 1; any other route with a loss.
    """

    entries: tuple[Entry, ...]
    combine: Combine = Combine.MEAN
    loss: float | None = None

    def __post_init__(self) -> None:
        _check_count(len(self.entries), MAX_ENTRIES, "entries")
        if self.combine is Combine.CASCADE:
            self._check_cascade()
        elif self.loss is not None:
            raise InvalidInput(
                "only a cascade has a loss", field="route", remedy="leave it out, or write cascade(...)"
            )

    def __str__(self) -> str:
        return in_brackets(", ".join(map(str, self.entries)), self.combine, self.loss)

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms of all entries, in order."""
        return tuple(term for entry in self.entries for term in entry.model.terms)

    @property
    def adapters(self) -> tuple[AdapterRef, ...]:
        """The adapters it names, each once, in order."""
        return tuple(dict.fromkeys(term.adapter for term in self.terms))

    @property
    def moving(self) -> tuple[AdapterRef, ...]:
        """The adapters in it whose version can change: by their alias, or with the next registration."""
        return tuple(ref for ref in self.adapters if ref.version is None and not ref.is_base)

    @property
    def single(self) -> AdapterRef | None:
        """The one adapter this route is, exactly as trained; None for everything else."""
        terms = self.terms
        return terms[0].adapter if len(terms) == 1 and terms[0].alpha == 1 else None

    def _check_cascade(self) -> None:
        if len(self.entries) < 2:
            raise InvalidInput(
                "a cascade of one member has nobody to ask next",
                field="route",
                remedy=f"add a member, or write {self.entries[0].model} alone",
            )
        weighted = next((entry for entry in self.entries if entry.weight != 1), None)
        if weighted is not None:
            raise InvalidInput(
                f"a cascade has no weights, and {weighted.model} has {number(weighted.weight)}",
                field="route",
                remedy="leave the weights out",
            )
        if self.loss is None or not 0 <= self.loss < 1:
            stated = "no loss" if self.loss is None else f"loss {self.loss}, which is not from 0 to below 1"
            raise InvalidInput(
                f"the cascade states {stated}",
                field="loss",
                remedy="say how much accuracy it may lose, such as cascade(lora, ssf; loss<=0.002)",
            )

    def with_terms(self, terms: Iterable[Term]) -> "Route":
        """The route with other terms in the place of its own, as many and in the order of `terms`."""
        rest = iter(terms)
        entries = []
        for entry in self.entries:
            others = tuple(next(rest) for _ in entry.model.terms)
            entries.append(replace(entry, model=replace(entry.model, terms=others)))
        return replace(self, entries=tuple(entries))


def in_brackets(entries: str, combine: Combine, loss: float | None) -> str:
    """A route's text from that of its entries."""
    if combine is Combine.MEAN:
        return entries
    return f"{combine}({entries}{'' if loss is None else f'; loss<={number(loss)}'})"


def check_alphas(route: Route, extrapolate: bool) -> None:
    """Hold every alpha to [0, 1] unless extrapolation is asked for.

    Raises:
        InvalidInput: An alpha lies outside.
    """
    for term in route.terms:
        if not extrapolate and not all(0 <= one <= 1 for one in limits(term.alpha)):
            raise InvalidInput(
                f"alpha {text(term.alpha)} of {term.adapter} lies outside [0, 1]",
                field="alpha",
                remedy="choose one inside, or allow it by --extrapolate (extrapolate=True in Python, "
                "allow_extrapolation in a request)",
            )


def _check_count(count: int, limit: int, what: str) -> None:
    if not 1 <= count <= limit:
        raise InvalidInput(f"a route has 1 to {limit} {what}, this one has {count}", field="route")
