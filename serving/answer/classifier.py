"""A classification request from names and bytes to answers: the transport-free core of the server.

    plan (catalog) -> models (bank) -> decode (pool) -> rows (batcher, engine) -> combine -> count

Knows neither protobuf nor gRPC. The event loop only waits here; decoding, combining and counting run
in the pool, forwards in the engine's thread.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from model_store.resolution.versions import ResolvedRoute
from model_store.routes.algebra import Route
from petl_vit.batch import Model
from petl_vit.combine import Answer, combine
from petl_vit.errors import CorollaError, Draining, Expired, InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import from_array, normalise, preprocess, resize
from serving.engine.batcher import Batcher, Done, Priority, Work
from serving.engine.engine import Job, Logits
from serving.metrics.events import Metrics
from serving.metrics.label_values import ADHOC
from serving.metrics.prediction_ids import Prediction, PredictionIds
from serving.registry.adapter_cache import Bank
from serving.registry.catalog import Catalog, Plan

Encoded = bytes
Pixels = NDArray[np.uint8]
"""[H, W, 3], resized and normalised by the server."""
Preprocessed = NDArray[np.float32]
"""[3, S, S], taken as preprocessed."""
Picture = Encoded | Pixels | Preprocessed

T = TypeVar("T")


class BadScores(CorollaError):
    """A model gave NaN or infinite logits for an image."""


MAX_CLIENT = 128


def caller(name: str, peer: str, *, field: str) -> str:
    """Who asks, for fairness: the name that a client gives, else its connection, told apart.

    Raises:
        InvalidInput: A name of more than `MAX_CLIENT` characters; `field` is where it stood.
    """
    if len(name) > MAX_CLIENT:
        raise InvalidInput(
            f"a client's name has at most {MAX_CLIENT} characters, this one has {len(name):,}",
            field=field,
            remedy="send a shorter one, or none",
        )
    return f"client:{name}" if name else f"peer:{peer}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client asks.

    Attributes:
        pictures: At least one. A tensor is a collection of pictures as it is, and all of one kind.
        deadline: time.monotonic() seconds, or None.
        client: Who asks: clients share the engine fairly.
    """

    task: str
    route: Route
    pictures: Collection[Picture]
    domain: str = ""
    extrapolate: bool = False
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    client: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageAnswer:
    """The answer for one image; K members, C classes."""

    probabilities: NDArray[np.float64]  # [C]
    predicted: int
    votes: tuple[int, ...]  # [K]
    confidences: tuple[float, ...]  # [K]
    agreement: float
    entropy: float
    mutual_information: float
    prediction_id: str

    def best(self, count: int) -> list[int]:
        """The most probable classes: the predicted one, then by probability, then by index."""
        order = np.lexsort((np.arange(len(self.probabilities)), -self.probabilities))
        return [self.predicted, *(int(i) for i in order if i != self.predicted)][:count]


@dataclass(frozen=True, kw_only=True)
class Response:
    """Answers in the order of the request's pictures; an image that failed has its error instead."""

    images: list[ImageAnswer | CorollaError]
    resolved: ResolvedRoute
    decode_s: float
    queue_s: float
    forward_s: float


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What the engine made of a request's pictures, in their order; of one that failed, its error."""

    outcomes: list[Done[Logits] | CorollaError]
    decode_s: float

    @property
    def queue_s(self) -> float:
        """The longest wait for the engine."""
        return max((one.queue_s for one in self.outcomes if isinstance(one, Done)), default=0.0)

    @property
    def forward_s(self) -> float:
        """The longest batch."""
        return max((one.run_s for one in self.outcomes if isinstance(one, Done)), default=0.0)


class Classifier:
    """Answers requests.

    Args:
        pool: Threads for everything that computes outside the engine.
        max_images: Most images of one request.
        max_pixels: Most pixels of one encoded image.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        bank: Bank,
        batcher: Batcher[Job, Logits],
        prediction_ids: PredictionIds,
        metrics: Metrics,
        pool: ThreadPoolExecutor,
        max_images: int,
        max_pixels: int,
        add_size: Callable[[int], None],
    ) -> None:
        self._catalog, self._bank, self._batcher = catalog, bank, batcher
        self._prediction_ids, self._metrics, self._pool = prediction_ids, metrics, pool
        self._max_images, self._max_pixels = max_images, max_pixels
        self._add_size = add_size
        self._announced: dict[str, str] = {}
        self._labels: dict[str, str] = {}

    async def classify(self, request: Request, finish: Callable[[Response], T]) -> T:
        """Answers every image, or says of each what is wrong with it.

        Args:
            finish: Makes of the answer what its protocol sends; runs in the pool.

        Raises:
            InvalidInput: No image, too many, or a route that cannot be answered.
            NotFound: A name of the route does not exist.
            Corrupt: An adapter's files are damaged.
            Overloaded, Expired, Draining: See `serving.engine.batcher`.
        """
        return await self.answer(request, await self.plan(request), finish)

    async def answer(self, request: Request, plan: Plan, finish: Callable[[Response], T]) -> T:
        """As `classify`, by a plan that is made and ready already."""
        computed = await self.compute(request, plan)
        return await self.in_pool(lambda: finish(self._respond(request, plan, computed)))

    async def plan(self, request: Request) -> Plan:
        """How a request is to be answered.

        Raises:
            InvalidInput: No image, too many, or a route that cannot be answered.
            NotFound: A name of the route does not exist.
        """
        self._check_count(len(request.pictures))
        return await self.in_pool(self._prepare, request)

    async def compute(
        self, request: Request, plan: Plan, asked: Callable[[Model], Model] = lambda model: model
    ) -> Computed:
        """Runs every image under every member of the plan.

        Args:
            asked: Makes of a member what its rows are to answer.

        Raises:
            InvalidInput, Corrupt, Overloaded, Expired, Draining: As `classify` does.
        """
        with self._bank.holding(plan.resolved) as held:
            started = time.monotonic()
            images = await self._decode_all(request, plan)
            decode_s = time.monotonic() - started
            loading = (asyncio.shield(asyncio.wrap_future(future)) for future in held.loading.values())
            await asyncio.gather(*loading, return_exceptions=True)  # `models` raises what to say of them all
            good = [i for i, image in enumerate(images) if isinstance(image, torch.Tensor)]
            models = tuple(map(asked, held.models()))
            done = await self._run([images[i] for i in good], models, request, plan)
        outcomes: list[Done[Logits] | BaseException | torch.Tensor] = list(images)
        for i, outcome in zip(good, done, strict=True):
            outcomes[i] = outcome
        _raise_faults(outcomes)
        return Computed(
            outcomes=[one for one in outcomes if isinstance(one, Done | CorollaError)], decode_s=decode_s
        )

    async def _decode_all(self, request: Request, plan: Plan) -> list[torch.Tensor | BaseException]:
        """Every picture ready for the backbone, or what is wrong with it."""
        spec = plan.resolved.task.spec.preprocess
        decoding = (self.in_pool(self._decode, p, spec, i) for i, p in enumerate(request.pictures))
        return await asyncio.gather(*decoding, return_exceptions=True)

    async def _run(
        self, images: Sequence[Any], models: tuple[Model, ...], request: Request, plan: Plan
    ) -> list[Done[Logits] | BaseException]:
        """The logits of images under every model."""
        jobs = [Job(image=image, models=models) for image in images]
        flow = " ".join(term.digest for term in plan.resolved.terms())
        return await self._batcher.submit(
            [Work(job=job, rows=job.rows, size=job.image.nbytes, flow=flow) for job in jobs],
            deadline=request.deadline,
            priority=request.priority,
            client=request.client,
        )

    def _prepare(self, request: Request) -> Plan:
        plan = self._catalog.plan(request.task, request.route, extrapolate=request.extrapolate)
        spec = plan.resolved.task.spec.preprocess
        _check_shape(next(iter(request.pictures)), spec)
        self.ready(plan)
        return plan

    def ready(self, plan: Plan) -> None:
        """Makes its image size known to the engine, and its named route to the metrics. Blocking."""
        self.announce(plan)
        self._add_size(plan.resolved.task.spec.preprocess.image_size)

    def announce(self, plan: Plan) -> None:
        """Makes a named route known to the metrics, with the versions of its members."""
        resolved, named = plan.resolved, plan.named
        if named is None or self._announced.get(named) == str(resolved):
            return
        self._labels[named] = self._metrics.add_route(named, [member.name for member in resolved.members])
        labels = self._metrics.known_routes.get(named, ())
        for label, member in zip(labels, resolved.members, strict=False):
            self._metrics.set_adapter(
                route=named,
                member=label,
                version=str(member),
                method="+".join(term.method for term in member.terms),
                digest="+".join(term.digest[:12] for term in member.terms),
            )
        self._announced[named] = str(resolved)

    def _label(self, plan: Plan) -> str:
        """The route's label in the metrics."""
        return ADHOC if plan.named is None else self._labels[plan.named]

    def _check_count(self, images: int) -> None:
        if not images:
            raise InvalidInput("the request has no image", field="images", remedy="send at least one")
        if images > self._max_images:
            raise InvalidInput(
                f"{images} images in one request, at most {self._max_images} are taken",
                field="images",
                remedy="send them in several requests",
            )

    def _decode(self, picture: Picture, spec: Preprocess, position: int) -> torch.Tensor:
        if isinstance(picture, bytes):
            return preprocess(picture, spec, max_pixels=self._max_pixels, field=f"images[{position}]")
        field = f"tensor[{position}]"
        if picture.dtype == np.uint8:
            return normalise(resize(from_array(picture, field=field), spec), spec)
        return _preprocessed(picture, field)

    def _respond(self, request: Request, plan: Plan, computed: Computed) -> Response:
        label = self._metrics.domains.label(request.domain)
        images = [
            self._answer(plan, outcome.result, label) if isinstance(outcome, Done) else outcome
            for outcome in computed.outcomes
        ]
        self.count(images)
        return Response(
            images=images,
            resolved=plan.resolved,
            decode_s=computed.decode_s,
            queue_s=computed.queue_s,
            forward_s=computed.forward_s,
        )

    def count(self, images: Sequence[object]) -> None:
        """Counts the images of an answer: what is an error among them could not be answered."""
        invalid = sum(isinstance(image, CorollaError) for image in images)
        self._metrics.images(ok=len(images) - invalid, invalid=invalid)

    def _answer(self, plan: Plan, logits: Logits, domain: str) -> ImageAnswer | CorollaError:
        resolved = plan.resolved
        orders = [resolved.class_order(member) for member in resolved.members]
        members = [z if o is None else z[list(o)] for z, o in zip(logits, orders, strict=True)]
        for member, z in zip(resolved.members, members, strict=True):
            if not np.isfinite(z).all():
                self._metrics.invalid_scores(self._label(plan), member.name)
                return BadScores(
                    f"{member} gave scores that are not finite",
                    remedy="look at the image's values and at alpha, then at the adapter's training",
                )
        weights = np.array([member.weight for member in resolved.members])
        answer = combine(
            np.stack(members)[None],
            weights,
            rule=resolved.combine,
            temperature=plan.temperature,
        )
        return self._counted(plan, answer, domain)

    def _counted(self, plan: Plan, answer: Answer, domain: str) -> ImageAnswer:
        """The answer for one image, after it went into the metrics."""
        resolved, predicted = plan.resolved, int(answer.predicted[0])
        votes = tuple(int(vote) for vote in answer.votes[0])
        confidence = float(answer.probabilities[0, predicted])
        route = self._label(plan)
        evidence = {
            "agreement": float(answer.agreement[0]),
            "entropy": float(answer.entropy[0]),
            "mutual_information": float(answer.mutual_information[0]),
        }
        self._metrics.prediction(
            route=route, domain=domain, predicted=predicted, votes=votes, confidence=confidence, **evidence
        )
        prediction = Prediction(
            route=route,
            domain=domain,
            task=resolved.task.spec.name,
            task_digest=resolved.task.digest,
            predicted=predicted,
            votes=votes,
            members=self._metrics.known_routes.get(route, ()),
            confidence=confidence,
            created_at=time.time(),
        )
        return ImageAnswer(
            probabilities=answer.probabilities[0],
            predicted=predicted,
            votes=votes,
            confidences=tuple(float(c) for c in answer.confidences[0]),
            prediction_id=self._prediction_ids.seal(prediction),
            **evidence,
        )

    async def in_pool(self, function: Callable[..., T], *args: object) -> T:
        """Runs what computes off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)


def _raise_faults(outcomes: Sequence[object]) -> None:
    """Raises what is no fault of one image: the request's own end, or an error of ours."""
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not _of_one_image(outcome):
            raise outcome


def _of_one_image(error: BaseException) -> bool:
    return isinstance(error, CorollaError) and not isinstance(error, Expired | Draining)


def _check_shape(picture: Picture, spec: Preprocess) -> None:
    """The shape of a float32 tensor is one for all its images, so a wrong one is the request's fault."""
    size = spec.image_size
    if isinstance(picture, bytes) or picture.dtype == np.uint8 or picture.shape == (3, size, size):
        return
    raise InvalidInput(
        f"a float32 image has shape {list(picture.shape)}, the task takes [3, {size}, {size}]",
        field="tensor.shape",
        remedy="preprocess it to that size, or send uint8 pixels",
    )


def _preprocessed(picture: NDArray[Any], field: str) -> torch.Tensor:
    if not np.isfinite(picture).all():
        raise InvalidInput("it has NaN or infinite values", field=field, remedy="send finite numbers")
    return torch.from_numpy(picture.copy())  # a copy of its own: the request's bytes cannot be written
