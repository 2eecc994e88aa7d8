"""Requests and answers in the Open Inference Protocol's terms: models' names, versions and parameters.

Knows neither protobuf nor gRPC; `tensors` and `outputs` know the tensors. Blocking: called in the pool.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeVar

from model_store.resolution.versions import ResolvedRoute
from model_store.routes.algebra import Entry, Model, Route, Term
from model_store.routes.alpha import times
from model_store.routes.text import parse_adapter, parse_route
from petl_vit.errors import CorollaError, Forbidden, InvalidInput, NotFound
from serving.engine.priority import Priority
from serving.oip.outputs import Output, RequestedOutput, check_outputs, outputs_of
from serving.oip.tensors import Input, images_of
from serving.request import ImageAnswer, Request, Response, caller

T = TypeVar("T")

PLATFORM = "corolla"
_PRIORITIES = {priority.name.lower(): priority for priority in Priority} | {
    # Triton's numbers: 0 is the default, and then the lowest is served first.
    "0": Priority.NORMAL,
    "1": Priority.HIGH,
    "2": Priority.NORMAL,
    "3": Priority.LOW,
}

Parameter = bool | int | float | str


class Parameters:
    """Parameters of a request or of one of its parts, read by name; unknown ones are ignored.

    Args:
        within: The part of the request, for the field of an error.
    """

    def __init__(self, values: Mapping[str, Parameter] = MappingProxyType({}), *, within: str = "") -> None:
        self._values, self._within = values, within

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str) -> str:
        """A text; empty if it is missing."""
        value = self._values.get(name, "")
        return value if isinstance(value, str) else self._refuse(name, "a text")

    def flag(self, name: str) -> bool:
        """A flag; false if it is missing."""
        value = self._values.get(name, False)
        return value if isinstance(value, bool) else self._refuse(name, "true or false")

    def choice(self, name: str, options: Mapping[str, T], default: T) -> T:
        """One of some options, by name or number."""
        key = str(self._values[name]).lower() if name in self else None
        if key is not None and key not in options:
            self._refuse(name, f"one of {', '.join(options)}")
        return default if key is None else options[key]

    def number(self, name: str, least: float = -math.inf) -> float | None:
        """A finite number, which may be written as text; None if it is missing."""
        if name not in self:
            return None
        value = self._values[name]
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            self._refuse(name, "a finite number")
        return number if number >= least else self._refuse(name, f"{least:g} or more")

    def whole(self, name: str, least: int) -> int | None:
        """A whole number; None if it is missing."""
        number = self.number(name, least)
        if number is not None and not number.is_integer():
            self._refuse(name, "a whole number")
        return None if number is None else int(number)

    def _refuse(self, name: str, expected: str) -> Any:
        field = self._within + _parameter(name)
        problem = f"{str(self._values[name])[:80]!r} is not {expected}"
        raise InvalidInput(problem, field=field, remedy=f"send {expected}, or leave it out")


@dataclass(frozen=True, kw_only=True)
class Inference:
    """A request in the protocol's terms.

    Attributes:
        raw: Raw contents of the inputs; empty where they are typed.
    """

    model: str
    version: str
    parameters: Parameters
    inputs: Sequence[Input]
    raw: Sequence[bytes]
    outputs: Sequence[RequestedOutput]


@dataclass(frozen=True, kw_only=True)
class InferenceAnswer:
    """An answer in the protocol's terms."""

    version: str
    parameters: Mapping[str, str]
    outputs: list[Output]


# Requests


def request_of(inference: Inference, *, max_images: int, deadline: float | None, peer: str) -> Request:
    """The request to the classifier.

    Args:
        max_images: Most images of one request.
        deadline: Of the call, time.monotonic() seconds, or None.
        peer: The connection's address, which stands for the client where none is named.

    Raises:
        InvalidInput: A value that cannot work; the field is the protocol's.
    """
    parameters = inference.parameters
    task, route = target(inference.model, inference.version, parameters)
    check_outputs(inference.outputs)
    _top_k(parameters)
    return Request(
        task=task,
        route=route,
        images=images_of(inference.inputs, inference.raw, max_images=max_images),
        domain=parameters.text("domain"),
        extrapolate=parameters.flag("extrapolate"),
        deadline=_deadline(parameters, deadline),
        priority=parameters.choice("priority", _PRIORITIES, Priority.NORMAL),
        client=_client(parameters, peer),
    )


def target(model: str, version: str, parameters: Parameters) -> tuple[str, Route]:
    """The task and the route that a model's name, version and parameters mean.

    Raises:
        InvalidInput: They name no route, contradict each other, or give an ensemble a version or an alpha.
    """
    field, route = _named(model, parameters)
    task = parameters.text("task")
    adapter = route.single
    bare = adapter is not None and str(adapter) == f"{adapter.task}/{adapter.name}"
    if adapter is not None and bare and task in ("", adapter.task):
        # `digits/best` may be a named route of the task.
        task, route = str(adapter.task), _route_of(Term(adapter=replace(adapter, task=None)))
    if version:
        route = _at_version(route, version, field)
    alpha = parameters.number("alpha")
    return task, route if alpha is None else _scaled(route, alpha)


def _named(model: str, parameters: Parameters) -> tuple[str, Route]:
    """The field that names the route, and the route."""
    if "route" in parameters and "adapter" in parameters:
        raise InvalidInput(
            "the request names a route and an adapter", field=_parameter("adapter"), remedy="keep one"
        )
    name, field = _route_parameter(parameters), _route_field(parameters)
    text = model if name is None else parameters.text(name)
    if not text.strip():
        raise InvalidInput("the request names no route", field=field, remedy="set it, e.g. to `lora`")
    if name == "adapter":
        return field, _with_field(field, lambda: _route_of(Term(adapter=parse_adapter(text))))
    return field, _with_field(field, lambda: parse_route(text))


def _at_version(route: Route, version: str, field: str) -> Route:
    """The route of one adapter, at a version or an alias."""
    ref = route.terms[0].adapter
    if len(route.terms) > 1 or ref.version is not None or ref.alias is not None:
        raise InvalidInput(
            f"{str(route)[:80]!r} is not one adapter without a version",
            field="model_version",
            remedy=f"leave it empty and write versions into {field}, as in `lora:3`",
        )
    number = int(version) if version.isascii() and version.isdigit() and len(version) <= 10 else None
    alias = version if number is None else None
    adapter = _with_field("model_version", lambda: replace(ref, version=number, alias=alias))
    return _route_of(replace(route.terms[0], adapter=adapter))


def _scaled(route: Route, alpha: float) -> Route:
    """The route of one adapter, with its alpha multiplied by another."""
    field, term = _parameter("alpha"), route.terms[0]
    if len(route.terms) > 1:
        raise InvalidInput(
            f"{str(route)[:80]!r} is not one adapter",
            field=field,
            remedy="write alphas into the route, as in `0.6*lora, ssf`",
        )
    return _route_of(_with_field(field, lambda: replace(term, alpha=times(term.alpha, alpha))))


def _route_of(term: Term) -> Route:
    return Route(entries=(Entry(model=Model(terms=(term,))),))


def _with_field(field: str, read: Callable[[], T]) -> T:
    """What `read` returns; an error of it names the protocol's field."""
    try:
        return read()
    except CorollaError as error:
        raise error.about(field) from error


def _deadline(parameters: Parameters, of_call: float | None) -> float | None:
    """The earliest deadline, time.monotonic() seconds."""
    now, seconds, microseconds = (
        time.monotonic(),
        parameters.number("deadline", 0),
        parameters.number("timeout", 0),
    )
    of_parameters = None if seconds is None else now + seconds
    of_triton = now + microseconds / 1e6 if microseconds else None  # Triton reads 0 as no timeout
    deadlines = (of_call, of_parameters, of_triton)
    return min((deadline for deadline in deadlines if deadline is not None), default=None)


def _client(parameters: Parameters, peer: str) -> str:
    return caller(parameters.text("client"), peer, field=_parameter("client"))


def _top_k(parameters: Parameters) -> int | None:
    return parameters.whole("top_k", 1)


def _parameter(name: str) -> str:
    return f"parameters[{name}]"


# Answers


def answer_of(inference: Inference, response: Response) -> InferenceAnswer:
    """The answer to a request.

    Raises:
        CorollaError: An image could not be answered; the protocol has no errors of single images.
    """
    answers = []
    for position, image in enumerate(response.images):
        if not isinstance(image, ImageAnswer):
            raise image.about(f"images[{position}]")
        answers.append(image)
    resolved = response.resolved
    terms = list(resolved.terms())
    notes = {"domain_note": response.domain_note, "route_note": response.route_note}
    return InferenceAnswer(
        version=version_of(resolved),
        parameters={
            "route": str(resolved),
            "task": resolved.task.spec.name,
            "adapters": ",".join(term.full_name for term in terms),
            "digests": ",".join(term.digest for term in terms),
            "backbone_digest": resolved.task.spec.backbone_digest,
            "domain": response.domain,
            **{name: text for name, text in notes.items() if text},
        },
        outputs=list(
            outputs_of(answers, resolved.classes, inference.outputs, top_k=_top_k(inference.parameters))
        ),
    )


def version_of(resolved: ResolvedRoute) -> str:
    """The version of a route that is one adapter; else empty."""
    terms = [term for member in resolved.members for term in member.terms]
    manifest = terms[0].manifest if len(terms) == 1 else None
    return "" if manifest is None else str(manifest.version)


_OF_TENSORS = {"tensor.shape": "inputs[0].shape", "images": "inputs[0].shape"}
_OF_ROUTES = frozenset({"route", "adapter", "version", "alias", "alpha", "blocks", "task"})


def protocol_field(error: CorollaError, version: str, parameters: Parameters) -> str | None:
    """The protocol's field for what an error of ours is about."""
    field = error.field
    if not isinstance(error, InvalidInput | NotFound | Forbidden) or field is None:
        return field
    if field in _OF_TENSORS:
        return _OF_TENSORS[field]
    no_task = field == "task" and isinstance(error, InvalidInput)
    if no_task or (field in ("task", "alpha") and field in parameters):
        return _parameter(field)
    if field in ("version", "alias") and version:
        return "model_version"
    if field in _OF_ROUTES:
        return _route_field(parameters)
    return field


def _route_parameter(parameters: Parameters) -> str | None:
    """The parameter that names the route; None where the model's name does."""
    return next((name for name in ("route", "adapter") if name in parameters), None)


def _route_field(parameters: Parameters) -> str:
    """The field that names the route."""
    name = _route_parameter(parameters)
    return "model_name" if name is None else _parameter(name)
