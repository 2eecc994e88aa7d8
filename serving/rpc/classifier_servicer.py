"""Serves corolla.v1.Classifier: protobuf to a validated request, answers and errors to protobuf."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import grpc
import numpy as np
from google.rpc import status_pb2

from model_store.resolution.versions import ResolvedRoute
from model_store.routes.algebra import AdapterRef, Entry, Model, Route, Term
from model_store.routes.alpha import Alpha, by_block
from model_store.routes.text import parse_route
from petl_vit.combine import Combine
from petl_vit.errors import CorollaError, InvalidInput
from protos.corolla.v1 import classifier_pb2 as pb
from protos.corolla.v1 import classifier_pb2_grpc
from serving.access.caller import caller as caller_now
from serving.access.principals import Scope
from serving.answer.classifier import Classifier
from serving.answer.features import FROZEN, embed
from serving.engine.priority import Priority
from serving.feedback.feedback import Feedback
from serving.metrics.events import Metrics
from serving.request import Embeddings, Image, ImageAnswer, Request, Response, caller
from serving.rpc.call import deadline_of, path, show_calls, stream, unary
from serving.rpc.labels import answered, check_count
from serving.rpc.status import status_of

T = TypeVar("T")

_SERVICE = pb.DESCRIPTOR.services_by_name["Classifier"]
SERVICE = _SERVICE.full_name
NEEDS: Mapping[str, Scope] = {
    path(method): Scope.FEEDBACK if method.name == "Feedback" else Scope.INFER for method in _SERVICE.methods
}
"""What each call needs of its caller, by its path."""
MAX_ID = 128
_DEFAULT_TOP_K = 5
_MOST_SIDES = 8
"""Of a tensor's shape as it is read; one side too many refuses it already."""
_COMBINES = {
    pb.COMBINE_UNSPECIFIED: Combine.MEAN,
    pb.COMBINE_MEAN: Combine.MEAN,
    pb.COMBINE_PROB: Combine.PROB,
    pb.COMBINE_VOTE: Combine.VOTE,
    pb.COMBINE_CASCADE: Combine.CASCADE,
}
_PRIORITIES = {
    pb.PRIORITY_UNSPECIFIED: Priority.NORMAL,
    pb.PRIORITY_LOW: Priority.LOW,
    pb.PRIORITY_NORMAL: Priority.NORMAL,
    pb.PRIORITY_HIGH: Priority.HIGH,
}
_LABEL_REASONS = {
    "sampled": pb.LABEL_REASON_SAMPLED,
    "disputed": pb.LABEL_REASON_DISPUTED,
}


class ClassifierServicer(classifier_pb2_grpc.ClassifierServicer):
    """Serves corolla.v1.Classifier.

    Args:
        pool: Threads for what computes, such as building large answers.
        max_stream_requests: Requests of one stream that are under way at once.
    """

    def __init__(
        self,
        *,
        classifier: Classifier,
        feedback: Feedback,
        metrics: Metrics,
        pool: ThreadPoolExecutor,
        max_stream_requests: int,
    ) -> None:
        self.metrics, self._classifier, self._feedback = metrics, classifier, feedback
        self._pool, self._max_stream_requests = pool, max_stream_requests
        show_calls(_SERVICE, metrics)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Makes a server answer the service's calls."""
        classifier_pb2_grpc.add_ClassifierServicer_to_server(self, server)

    @unary
    async def Classify(self, request: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        return await self._classify(request, context)

    async def ClassifyStream(self, _: object, context: Any) -> None:  # type: ignore[override]  # by its context
        async def answer(message: pb.StreamRequest) -> pb.StreamResponse:
            return pb.StreamResponse(id=message.id, response=await self._classify(message.request, context))

        def failure(message: pb.StreamRequest, status: status_pb2.Status) -> pb.StreamResponse:
            return pb.StreamResponse(id=message.id, error=status)

        await stream(
            "ClassifyStream",
            context,
            self.metrics,
            answer,
            failure,
            most=self._max_stream_requests,
            check=_check_id,
        )

    @unary
    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        finish = partial(_embeddings, request)
        embedding = _request(request, context, default=FROZEN)
        return await embed(self._classifier, embedding, finish, unit=request.normalise)

    @unary
    async def Feedback(self, request: pb.FeedbackRequest, context: Any) -> pb.FeedbackResponse:
        check_count(request)
        principal = caller_now()
        return await self._feedback.in_turn(lambda: answered(self._feedback, request, principal))

    async def _classify(self, message: pb.ClassifyRequest, context: Any) -> pb.ClassifyResponse:
        return await self._classifier.classify(_request(message, context), partial(_response, message))


# From protobuf


def _check_id(message: pb.StreamRequest) -> None:
    if len(message.id) > MAX_ID:
        problem = f"an id has at most {MAX_ID} characters, this one has {len(message.id):,}"
        raise InvalidInput(problem, field="id")


def _request(
    message: pb.ClassifyRequest | pb.EmbedRequest, context: Any, default: Route | None = None
) -> Request:
    """The request of a message.

    Args:
        default: The route of a message that names none; None refuses it.
    """
    return Request(
        task=message.task,
        route=_route(message) if default is None or message.WhichOneof("route_spec") else default,
        images=_images(message),
        domain=message.domain if isinstance(message, pb.ClassifyRequest) else "",
        extrapolate=message.allow_extrapolation,
        deadline=deadline_of(context),
        priority=_priority(message),
        client=_client(message, context),
    )


def _priority(message: pb.ClassifyRequest | pb.EmbedRequest) -> Priority:
    if message.priority not in _PRIORITIES:
        raise InvalidInput(
            f"priority {message.priority} is unknown",
            field="priority",
            remedy="send one of Priority, or none, which is normal",
        )
    return _PRIORITIES[message.priority]


def _client(message: pb.ClassifyRequest | pb.EmbedRequest, context: Any) -> str:
    return caller(message.client, context.peer(), field="client")


def _route(message: pb.ClassifyRequest | pb.EmbedRequest) -> Route:
    kind = message.WhichOneof("route_spec")
    if kind == "route":
        return parse_route(message.route)
    if kind == "typed_route":
        return _typed_route(message.typed_route)
    raise InvalidInput("the request names no route", field="route", remedy="set route, e.g. to `lora`")


def _typed_route(message: pb.Route) -> Route:
    if message.combine not in _COMBINES:
        raise InvalidInput(
            f"combine {message.combine} is unknown",
            field="typed_route.combine",
            remedy="send one of Combine, or none, which is mean",
        )
    entries = tuple(
        Entry(
            weight=entry.weight if entry.HasField("weight") else 1.0,
            model=Model(terms=tuple(map(_term, entry.model.terms))),
        )
        for entry in message.entries
    )
    return Route(
        entries=entries,
        combine=_COMBINES[message.combine],
        loss=message.max_loss if message.HasField("max_loss") else None,
    )


def _term(message: pb.Term) -> Term:
    ref, at = message.adapter, message.adapter.WhichOneof("at")
    adapter = AdapterRef(
        name=ref.name,
        task=ref.task or None,
        version=ref.version if at == "version" else None,
        alias=ref.alias if at == "alias" else None,
    )
    return Term(alpha=_alpha(message), adapter=adapter)


def _alpha(message: pb.Term) -> Alpha:
    return by_block(
        message.alpha if message.HasField("alpha") else 1.0,
        message.last_alpha if message.HasField("last_alpha") else None,
        (message.blocks.first, message.blocks.last) if message.HasField("blocks") else None,
    )


def _images(message: pb.ClassifyRequest | pb.EmbedRequest) -> Collection[Image]:
    if message.images and message.HasField("tensor"):
        raise InvalidInput(
            "the request has both images and a tensor", field="tensor", remedy="send one of them"
        )
    if message.HasField("tensor"):
        return _tensor(message.tensor)
    return [image.data for image in message.images]


def _tensor(message: pb.Tensor) -> np.ndarray[Any, Any]:
    """The images of a tensor: uint8 [n, H, W, 3] or float32 [n, 3, S, S]."""
    shape = tuple(message.shape[:_MOST_SIDES])
    dtypes: dict[int, np.dtype[Any]] = {
        pb.Tensor.DATA_TYPE_UINT8: np.dtype("uint8"),
        pb.Tensor.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    }
    if message.dtype not in dtypes:
        problem = f"dtype {message.dtype} is unknown" if message.dtype else "the dtype is not set"
        raise InvalidInput(problem, field="tensor.dtype", remedy="send uint8 or float32")
    dtype = dtypes[message.dtype]
    channels = 3 if dtype == np.uint8 else 1
    if len(shape) != 4 or shape[channels] != 3 or 0 in shape:
        expected = "[n, H, W, 3]" if dtype == np.uint8 else "[n, 3, S, S]"
        raise InvalidInput(
            f"shape {list(shape)} is not {expected}", field="tensor.shape", remedy="send that layout"
        )
    if int(np.prod(shape, dtype=object)) * dtype.itemsize != len(message.data):
        raise InvalidInput(
            f"{len(message.data)} bytes are not shape {list(shape)} of {dtype.name}",
            field="tensor.data",
            remedy="send the values row-major, little-endian, without padding",
        )
    return np.frombuffer(message.data, dtype=dtype).reshape(shape)


# To protobuf


def _response(request: pb.ClassifyRequest, response: Response) -> pb.ClassifyResponse:
    resolved = response.resolved
    message = pb.ClassifyResponse(
        route=str(resolved),
        task=resolved.task.spec.name,
        domain=response.domain,
        domain_note=response.domain_note,
        backbone_digest=resolved.task.spec.backbone_digest,
        adapters=_adapters(resolved),
        timings=_timings(response),
        route_note=response.route_note,
    )
    for result, answer in _results(message, request, response.images):
        _fill(result, request, resolved, answer)
    return message


def _results(
    message: pb.ClassifyResponse | pb.EmbedResponse,
    request: pb.ClassifyRequest | pb.EmbedRequest,
    answers: Iterable[T | CorollaError],
) -> Iterator[tuple[Any, T]]:
    """Adds a result for each image, under its id, with its error; those without one are to be filled."""
    for position, answer in enumerate(answers):
        result = message.results.add()
        if request.images:
            result.id = request.images[position].id
        if isinstance(answer, CorollaError):
            result.error.CopyFrom(status_of(answer))
        else:
            yield result, answer


def _adapters(resolved: ResolvedRoute) -> list[pb.ResolvedAdapter]:
    return [
        pb.ResolvedAdapter(name=term.full_name, digest=term.digest, method=term.method)
        for term in resolved.terms()
    ]


def _timings(response: Response | Embeddings) -> pb.Timings:
    message = pb.Timings()
    timings = response.timings
    times = (timings.decode_s, timings.queue_s, timings.forward_s)
    for name, seconds in zip(("decode", "queue", "forward"), times, strict=True):
        getattr(message, name).FromNanoseconds(int(seconds * 1e9))
    return message


def _fill(
    result: pb.ImageResult, request: pb.ClassifyRequest, resolved: ResolvedRoute, answer: ImageAnswer
) -> None:
    classes = resolved.classes
    for index in answer.best(request.top_k or _DEFAULT_TOP_K):
        result.top.append(_score(classes, index, float(answer.probabilities[index])))
    if request.want_probabilities:
        result.probabilities.extend(answer.probabilities.tolist())
    if request.want_members:
        for member, vote, confidence in zip(resolved.members, answer.votes, answer.confidences, strict=True):
            top = None if vote is None or confidence is None else _score(classes, vote, confidence)
            result.members.append(pb.MemberVote(member=str(member), top=top))
    result.agreement = answer.agreement
    result.entropy = answer.entropy
    result.mutual_information = answer.mutual_information
    result.prediction_id = answer.prediction_id
    result.members_asked = answer.members_asked
    if (wish := answer.label_request) is not None:
        result.label_request.reason = _LABEL_REASONS[wish.reason]
        result.label_request.inclusion_probability = wish.probability


def _score(classes: tuple[str, ...], index: int, probability: float) -> pb.Score:
    return pb.Score(class_name=classes[index], class_index=index, probability=probability)


def _embeddings(request: pb.EmbedRequest, embeddings: Embeddings) -> pb.EmbedResponse:
    resolved = embeddings.resolved
    message = pb.EmbedResponse(
        route=str(resolved),
        backbone_digest=resolved.task.spec.backbone_digest,
        adapters=_adapters(resolved),
        timings=_timings(embeddings),
    )
    for result, features in _results(message, request, embeddings.images):
        result.values.extend(features.tolist())
    return message
