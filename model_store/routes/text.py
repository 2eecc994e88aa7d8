"""Routes as people write them: parsed, and explained in words."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from model_store.names import LATEST
from model_store.routes.algebra import MAX_TEXT, AdapterRef, Entry, Model, Route, Term
from model_store.routes.alpha import Alpha, ByBlock, by_block, in_words, number
from petl_vit.combine import Combine
from petl_vit.errors import InvalidInput

_ONE = "write lora, lora:3, lora@prod or TASK/lora"

_EXAMPLE = "write a route such as `lora`, `0.6*lora@prod`, `lora, ssf:3` or `prob(2: lora, 1: ssf)`"


def parse_route(text: str) -> Route:
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
        ref = parse_route(text).single
    except InvalidInput as error:
        raise InvalidInput(error.problem, field="adapter", remedy=_ONE) from error
    if ref is None:
        raise InvalidInput(f"{text[:80]!r} is not one adapter", field="adapter", remedy=_ONE)
    return ref


_MEANING = {
    Combine.MEAN: "mean of the logits",
    Combine.PROB: "mean of the probabilities",
    Combine.VOTE: "majority vote",
    Combine.CASCADE: "cascade",
}


def explain_route(route: Route, task: str) -> list[str]:
    """Say in words how a route was read, one line for the route and one per entry."""
    if len(route.entries) == 1:
        return [_in_words(route.entries[0].model, task)]
    if route.combine is Combine.CASCADE:
        return _explain_cascade(route, task)
    total = sum(entry.weight for entry in route.entries)
    lines = [f"{_MEANING[route.combine]} of {len(route.entries)} models"]
    for entry in route.entries:
        lines.append(f"  {entry.weight / total:4.0%}  {_in_words(entry.model, task)}")
    return lines


def _explain_cascade(route: Route, task: str) -> list[str]:
    assert route.loss is not None, "a cascade has a loss"
    stated = f"at most {number(route.loss)} of accuracy" if route.loss else "no accuracy"
    return [
        f"cascade of {len(route.entries)} models: asked one after another until the answer is settled; "
        f"mean of the logits of those asked; to lose {stated} against asking all",
        *(f"  {_in_words(entry.model, task)}" for entry in route.entries),
    ]


def _in_words(model: Model, task: str) -> str:
    terms = [f"{_share(term)}{_place(term.adapter, task)}" for term in model.terms]
    return terms[0] if len(terms) == 1 else f"sum in weight space: {' + '.join(terms)}"


def _share(term: Term) -> str:
    if term.alpha == 1:
        return ""
    comma = "," if isinstance(term.alpha, ByBlock) else ""
    return f"{in_words(term.alpha)}{comma} from the frozen model towards "


def _place(ref: AdapterRef, task: str) -> str:
    home = ref.task or task
    if ref.is_base:
        return f"the frozen backbone with the base head of task {home}"
    which = f"version {ref.version}" if ref.version is not None else f"alias {ref.alias or LATEST}"
    return f"adapter {ref.name} of task {home}, {which}"


class _Token(NamedTuple):
    kind: str  # "number", "name", "blocks", "end", or the punctuation itself
    text: str
    at: int  # 0-based


_TOKEN = re.compile(
    r"\s*(?:(?P<number>-?(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[a-z][a-z0-9_-]*)"
    r"|(?P<blocks>\[[^]]*\]?)|(?P<mark><=|\.\.|[(),+*:/@;])|(?P<other>\S))",
    re.ASCII,
)


def _tokens(text: str) -> Iterator[_Token]:
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        matched = match.group(kind)
        yield _Token(matched if kind == "mark" else kind, matched, match.start(kind))
    yield _Token("end", "", len(text))


class _Parser:
    """Recursive descent with one token of look-ahead, and one more to tell `2:` from `2*`."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0

    def route(self) -> Route:
        combine = Combine.MEAN
        if self._combines():
            combine = Combine(self._take().text)
        bracketed = self._skip("(")
        entries = [self._entry()]
        while self._skip(","):
            entries.append(self._entry())
        loss = self._loss() if combine is Combine.CASCADE and self._skip(";") else None
        if bracketed and not self._skip(")"):
            raise self._expected("`,`, `+` or `)`" if loss is None else "`)`")
        if self._peek().kind != "end":
            raise self._expected("the end of the route" if bracketed else "`,`, `+` or the end of the route")
        return Route(entries=tuple(entries), combine=combine, loss=loss)

    def _combines(self) -> bool:
        """Whether a rule and its members come next."""
        return self._peek().text in tuple(Combine) and self._peek(1).kind == "("

    def _loss(self) -> float:
        if self._take_name("loss") and self._skip("<=") and self._peek().kind == "number":
            return float(self._take().text)
        raise self._expected("`loss<=` and a number such as 0.002")

    def _take_name(self, name: str) -> bool:
        if self._peek().text != name:
            return False
        self._next += 1
        return True

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
        if self._combines():
            token = self._peek()
            raise InvalidInput(
                f"`{token.text}(` at character {token.at + 1} stands inside a route, and routes do not nest",
                field="route",
                remedy="list its members instead",
            )
        if self._peek().kind != "number":
            return Term(adapter=self._adapter())
        alpha = self._alpha()
        if not self._skip("*"):
            raise self._expected("`*` and an adapter after an alpha, or `:` and a model after a weight")
        return Term(alpha=alpha, adapter=self._adapter())

    def _alpha(self) -> Alpha:
        first, last, blocks = float(self._take().text), None, None
        if self._skip(".."):
            if self._peek().kind != "number" or self._peek().text.startswith("."):
                raise self._expected("the alpha of the last block after `..`, which begins with a digit,")
            last = float(self._take().text)
        if self._peek().kind == "blocks":
            blocks = self._blocks()
        return by_block(first, last, blocks)

    def _blocks(self) -> tuple[int, int]:
        match = re.fullmatch(r"\[\s*([0-9]{1,6})\s*(?:-\s*([0-9]{1,6})\s*)?\]", self._peek().text)
        if match is None:
            raise self._expected("blocks such as `[0-5]` or `[7]`, which count from 0")
        self._take()
        return int(match[1]), int(match[2] or match[1])

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
        actual = "the route ends" if token.kind == "end" else f"found {token.text[:40]!r}"
        return InvalidInput(
            f"expected {what} at character {token.at + 1}, {actual}", field="route", remedy=_EXAMPLE
        )
