"""Routes: the small algebra in which a request says which models answer it. Imports no torch.

    route   := [combine] "(" entry ("," entry)* ")" | entry ("," entry)*
    combine := "mean" | "prob" | "vote"              entry := [weight ":"] model
    model   := term ("+" term)*                      term  := [alpha "*"] adapter
    adapter := [task "/"] name [":" version | "@" alias]

The records hold the typed form and check themselves, so a route that came over the wire is held to
the same limits as one that was written by hand. What a name stands for is the store's knowledge.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from model_store.names import BASE, LATEST, check_name
from petl_vit.combine import Combine
from petl_vit.errors import InvalidInput

MAX_TEXT = 2_000
MAX_ENTRIES = 16
MAX_TERMS = 16
MAX_VERSION = 2**31 - 1
MAX_ALPHA = 100  # far beyond any use, and far from what overflows

_ONE = "write lora, lora:3, lora@prod or TASK/lora"
_EXAMPLE = "write a route such as `lora`, `0.6*lora@prod`, `lora, ssf:3` or `prob(2: lora, 1: ssf)`"


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
                f"{self.version} is not a version", field="version", remedy="versions count from 1"
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

    def __str__(self) -> str:
        task = f"{self.task}/" if self.task is not None else ""
        version = f":{self.version}" if self.version is not None else ""
        alias = f"@{self.alias}" if self.alias is not None else ""
        return f"{task}{self.name}{version}{alias}"


@dataclass(frozen=True, kw_only=True)
class Term:
    """An adapter's edits times alpha: 1 is as trained, 0 the frozen model.

    Raises:
        InvalidInput: Alpha is not a number, or absurdly large.
    """

    adapter: AdapterRef
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not abs(self.alpha) <= MAX_ALPHA:
            raise InvalidInput(
                f"alpha {self.alpha} of {self.adapter} is not a number from -{MAX_ALPHA} to {MAX_ALPHA}",
                field="alpha",
                remedy="0 is the frozen model and 1 the adapter as trained",
            )

    def __str__(self) -> str:
        return str(self.adapter) if self.alpha == 1 else f"{number(self.alpha)}*{self.adapter}"


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

    Raises:
        InvalidInput: No entry, or more than `MAX_ENTRIES`.
    """

    entries: tuple[Entry, ...]
    combine: Combine = Combine.MEAN

    def __post_init__(self) -> None:
        _check_count(len(self.entries), MAX_ENTRIES, "entries")

    def __str__(self) -> str:
        entries = ", ".join(map(str, self.entries))
        return entries if self.combine is Combine.MEAN else f"{self.combine}({entries})"

    @property
    def terms(self) -> tuple[Term, ...]:
        """All terms of all entries, in order."""
        return tuple(term for entry in self.entries for term in entry.model.terms)

    @property
    def adapters(self) -> tuple[AdapterRef, ...]:
        """The adapters it names, each once, in order."""
        return tuple(dict.fromkeys(term.adapter for term in self.terms))

    @property
    def single(self) -> AdapterRef | None:
        """The one adapter this route is, exactly as trained; None for everything else."""
        terms = self.terms
        return terms[0].adapter if len(terms) == 1 and terms[0].alpha == 1 else None


def parse(text: str) -> Route:
    """Read a route.

    Raises:
        InvalidInput: It is too long or not a route; names the character and what was expected.
    """
    if len(text) > MAX_TEXT:
        raise InvalidInput(
            f"a route has at most {MAX_TEXT:,} characters, this one has {len(text):,}",
            field="route",
            remedy="name the parts as routes of their own",
        )
    return _Parser(text).route()


def parse_adapter(text: str) -> AdapterRef:
    """Read what names one adapter.

    Raises:
        InvalidInput: It does not.
    """
    try:
        ref = parse(text).single
    except InvalidInput as error:
        raise InvalidInput(error.problem, field="adapter", remedy=_ONE) from error
    if ref is None:
        raise InvalidInput(f"{text[:80]!r} is not one adapter", field="adapter", remedy=_ONE)
    return ref


def check_alphas(route: Route, extrapolate: bool) -> None:
    """Hold every alpha to [0, 1] unless extrapolation is asked for.

    Raises:
        InvalidInput: An alpha lies outside.
    """
    for term in route.terms:
        if not extrapolate and not 0 <= term.alpha <= 1:
            raise InvalidInput(
                f"alpha {number(term.alpha)} of {term.adapter} lies outside [0, 1]",
                field="alpha",
                remedy="choose one inside, or ask for extrapolation",
            )


_MEANING = {
    Combine.MEAN: "mean of the logits",
    Combine.PROB: "mean of the probabilities",
    Combine.VOTE: "majority vote",
}


def explain(route: Route, task: str) -> list[str]:
    """Say in words how a route was read, one line for the route and one per entry."""
    if len(route.entries) == 1:
        return [_in_words(route.entries[0].model, task)]
    total = sum(entry.weight for entry in route.entries)
    lines = [f"{_MEANING[route.combine]} of {len(route.entries)} models"]
    for entry in route.entries:
        lines.append(f"  {entry.weight / total:4.0%}  {_in_words(entry.model, task)}")
    return lines


def _in_words(model: Model, task: str) -> str:
    terms = [f"{_share(term)}{_place(term.adapter, task)}" for term in model.terms]
    return terms[0] if len(terms) == 1 else f"sum in weight space: {' + '.join(terms)}"


def _share(term: Term) -> str:
    return "" if term.alpha == 1 else f"alpha {number(term.alpha)} from the frozen model towards "


def _place(ref: AdapterRef, task: str) -> str:
    home = ref.task or task
    if ref.is_base:
        return f"the frozen backbone with the base head of task {home}"
    which = f"version {ref.version}" if ref.version is not None else f"alias {ref.alias or LATEST}"
    return f"adapter {ref.name} of task {home}, {which}"


def number(value: float) -> str:
    """A number as a route's text has it: exact, and without a useless fraction."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _check_count(count: int, limit: int, what: str) -> None:
    if not 1 <= count <= limit:
        raise InvalidInput(f"a route has 1 to {limit} {what}, this one has {count}", field="route")


class _Token(NamedTuple):
    kind: str  # "number", "name", "end", or the punctuation itself
    text: str
    at: int  # 0-based


_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[a-z][a-z0-9_-]*)"
    r"|(?P<mark>[(),+*:/@])|(?P<other>\S))",
    re.ASCII,
)


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        found = match.group(kind)
        yield _Token(found if kind == "mark" else kind, found, match.start(kind))
    yield _Token("end", "", len(text))


class _Parser:
    """Recursive descent with one token of look-ahead, and one more to tell `2:` from `2*`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0

    def route(self) -> Route:
        combine = Combine.MEAN
        if self._peek().text in tuple(Combine) and self._peek(1).kind == "(":
            combine = Combine(self._take().text)
        bracketed = self._skip("(")
        entries = [self._entry()]
        while self._skip(","):
            entries.append(self._entry())
        if bracketed and not self._skip(")"):
            raise self._expected("`,`, `+` or `)`")
        if self._peek().kind != "end":
            raise self._expected("the end of the route" if bracketed else "`,`, `+` or the end of the route")
        return Route(entries=tuple(entries), combine=combine)

    def _entry(self) -> Entry:
        weight = 1.0
        if self._peek().kind == "number" and self._peek(1).kind == ":":
            weight = float(self._take().text)
            self._take()
        terms = [self._term()]
        while self._skip("+"):
            terms.append(self._term())
        return Entry(weight=weight, model=Model(terms=tuple(terms)))

    def _term(self) -> Term:
        if self._peek().kind != "number":
            return Term(adapter=self._adapter())
        alpha = float(self._take().text)
        if not self._skip("*"):
            raise self._expected("`*` and an adapter after an alpha, or `:` and a model after a weight")
        return Term(alpha=alpha, adapter=self._adapter())

    def _adapter(self) -> AdapterRef:
        task, name = None, self._name("an adapter")
        if self._skip("/"):
            task, name = name, self._name("an adapter after the task")
        version = self._version() if self._skip(":") else None
        alias = self._name("an alias") if version is None and self._skip("@") else None
        return AdapterRef(task=task, name=name, version=version, alias=alias)

    def _name(self, what: str) -> str:
        if self._peek().kind != "name":
            raise self._expected(f"the name of {what}")
        return self._take().text

    def _version(self) -> int:
        token = self._peek()
        if not re.fullmatch(r"[0-9]{1,10}", token.text):
            raise self._expected("a version, a whole number from 1")
        return int(self._take().text)

    def _peek(self, ahead: int = 0) -> _Token:
        return self._tokens[min(self._next + ahead, len(self._tokens) - 1)]

    def _take(self) -> _Token:
        token = self._peek()
        self._next += 1
        return token

    def _skip(self, kind: str) -> bool:
        if self._peek().kind != kind:
            return False
        self._next += 1
        return True

    def _expected(self, what: str) -> InvalidInput:
        token = self._peek()
        found = "the route ends" if token.kind == "end" else f"found {token.text[:40]!r}"
        return InvalidInput(
            f"expected {what} at character {token.at + 1}, {found}", field="route", remedy=_EXAMPLE
        )
