"""A classification request from names and bytes to answers: the transport-free core of the server.

    plan (catalog) -> models (adapter cache) -> decode (pool) -> rows (batcher, engine) -> combine -> count

Knows neither protobuf nor gRPC. The event loop only waits here; decoding, combining and counting run
in the pool, forwards in the engine's thread.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from petl_vit.batch import Model
from petl_vit.combine import Answer, combine
from petl_vit.errors import CorollaError, Draining, Expired, InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import from_array, normalise, preprocess, resize
from serving.engine.batcher import Batcher, Done
from serving.engine.engine import Job, Logits
from serving.metrics.events import Metrics
from serving.metrics.label_values import ADHOC
from serving.metrics.prediction_ids import Prediction, PredictionIds
from serving.registry.adapter_cache import AdapterCache
from serving.registry.catalog import Catalog, Plan
from serving.request import BadScores, Image, ImageAnswer, Request, Response

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What the engine made of a request's images, in their order; of one that failed, its error."""

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
        cache: AdapterCache,
        batcher: Batcher[Job, Logits],
        prediction_ids: PredictionIds,
        metrics: Metrics,
        pool: ThreadPoolExecutor,
        max_images: int,
        max_pixels: int,
        add_size: Callable[[int], None],
    ) -> None:
        self._catalog, self._cache, self._batcher = catalog, cache, batcher
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
        self._check_count(len(request.images))
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
        with self._cache.holding(plan.resolved) as held:
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
        """Every image ready for the backbone, or what is wrong with it."""
        spec = plan.resolved.task.spec.preprocess
        decoding = (self.in_pool(self._decode, image, spec, i) for i, image in enumerate(request.images))
        return await asyncio.gather(*decoding, return_exceptions=True)

    async def _run(
        self, images: Sequence[Any], models: tuple[Model, ...], request: Request, plan: Plan
    ) -> list[Done[Logits] | BaseException]:
        """The logits of images under every model."""
        return await self._batcher.submit(
            [Job(image=image, models=models) for image in images],
            flow=" ".join(term.digest for term in plan.resolved.terms()),
            deadline=request.deadline,
            priority=request.priority,
            client=request.client,
        )

    def _prepare(self, request: Request) -> Plan:
        plan = self._catalog.plan(request.task, request.route, extrapolate=request.extrapolate)
        spec = plan.resolved.task.spec.preprocess
        _check_shape(next(iter(request.images)), spec)
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

    def _decode(self, image: Image, spec: Preprocess, position: int) -> torch.Tensor:
        if isinstance(image, bytes):
            return preprocess(image, spec, max_pixels=self._max_pixels, field=f"images[{position}]")
        field = f"tensor[{position}]"
        if image.dtype == np.uint8:
            return normalise(resize(from_array(image, field=field), spec), spec)
        return _preprocessed(image, field)

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


def _check_shape(image: Image, spec: Preprocess) -> None:
    """The shape of a float32 tensor is one for all its images, so a wrong one is the request's fault."""
    size = spec.image_size
    if isinstance(image, bytes) or image.dtype == np.uint8 or image.shape == (3, size, size):
        return
    raise InvalidInput(
        f"a float32 image has shape {list(image.shape)}, the task takes [3, {size}, {size}]",
        field="tensor.shape",
        remedy="preprocess it to that size, or send uint8 pixels",
    )


def _preprocessed(image: NDArray[Any], field: str) -> torch.Tensor:
    if not np.isfinite(image).all():
        raise InvalidInput("it has NaN or infinite values", field=field, remedy="send finite numbers")
    return torch.from_numpy(image.copy())  # a copy of its own: the request's bytes cannot be written
