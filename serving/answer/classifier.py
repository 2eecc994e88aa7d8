"""The classifier: a request from names and bytes to answers, whatever the protocol.

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
from serving.metrics.recorder import Recorder
from serving.registry.adapter_cache import AdapterCache
from serving.registry.catalog import Catalog, Plan
from serving.request import BadScores, Image, ImageAnswer, Request, Response, Timings

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What the engine computed of a request's images, in their order; of one that failed, its error."""

    logits: list[Logits | CorollaError]
    timings: Timings


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
        recorder: Recorder,
        pool: ThreadPoolExecutor,
        max_images: int,
        max_pixels: int,
    ) -> None:
        self._catalog, self._cache, self._batcher = catalog, cache, batcher
        self._recorder, self._pool = recorder, pool
        self._max_images, self._max_pixels = max_images, max_pixels

    async def classify(self, request: Request, finish: Callable[[Response], T]) -> T:
        """Answers every image, or says of each what is wrong with it.

        Args:
            finish: Turns the answer into what its protocol sends; runs in the pool.

        Raises:
            InvalidInput: No image, too many, or a route that cannot be answered.
            NotFound: A name of the route does not exist.
            Corrupt: An adapter's files are damaged.
            Overloaded, Expired, Draining: See `serving.engine.batcher`.
        """
        return await self.answer(request, await self.plan(request), finish)

    async def answer(self, request: Request, plan: Plan, finish: Callable[[Response], T]) -> T:
        """As `classify`, by a plan that is made and announced before."""
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
        self, request: Request, plan: Plan, readout: Callable[[Model], Model] = lambda model: model
    ) -> Computed:
        """Runs every image under every member of the plan.

        Args:
            readout: Maps a member to what is read out: classes or features.

        Raises:
            InvalidInput, Corrupt, Overloaded, Expired, Draining: As `classify` does.
        """
        with self._cache.lease(plan.resolved) as lease:
            started = time.monotonic()
            images = await self._decode_all(request, plan)
            decode_s = time.monotonic() - started
            loading = (asyncio.shield(asyncio.wrap_future(future)) for future in lease.loading.values())
            await asyncio.gather(*loading, return_exceptions=True)  # `models` raises what to say of them all
            models = tuple(map(readout, lease.models()))
            done = await self._run([i for i in images if isinstance(i, torch.Tensor)], models, request, plan)
        results = iter(done)
        return _computed([i if isinstance(i, BaseException) else next(results) for i in images], decode_s)

    async def _decode_all(self, request: Request, plan: Plan) -> list[torch.Tensor | BaseException]:
        """Every image ready for the backbone, or what is wrong with it."""
        spec = plan.resolved.preprocess
        decoding = (self.in_pool(self._decode, image, spec, i) for i, image in enumerate(request.images))
        return await asyncio.gather(*decoding, return_exceptions=True)

    async def _run(
        self, images: Sequence[torch.Tensor], models: tuple[Model, ...], request: Request, plan: Plan
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
        spec = plan.resolved.preprocess
        _check_shape(next(iter(request.images)), spec)
        self.announce(plan)
        return plan

    def announce(self, plan: Plan) -> None:
        """Makes a named route known to the metrics, with the versions of its members."""
        self._recorder.announce(plan.named, plan.resolved)

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
        domain, note = self._recorder.domain(request.domain)
        images = [
            logits if isinstance(logits, CorollaError) else self._answer(plan, logits, domain)
            for logits in computed.logits
        ]
        self.count(images)
        return Response(
            images=images,
            resolved=plan.resolved,
            timings=computed.timings,
            domain=domain,
            domain_note=note,
            route_note=plan.note,
        )

    def count(self, images: Sequence[object]) -> None:
        """Counts the images of an answer; an error among them stands for an image without an answer."""
        self._recorder.images(images)

    def _answer(self, plan: Plan, logits: Logits, domain: str) -> ImageAnswer | CorollaError:
        resolved = plan.resolved
        orders = [resolved.class_order(member) for member in resolved.members]
        members = [z if o is None else z[list(o)] for z, o in zip(logits, orders, strict=True)]
        for member, z in zip(resolved.members, members, strict=True):
            if not np.isfinite(z).all():
                self._recorder.invalid_scores(plan.named, member.name)
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
        return _image_answer(answer, self._recorder.answer(plan.named, resolved, domain, answer))

    async def in_pool(self, function: Callable[..., T], *args: object) -> T:
        """Runs what computes off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)


def _computed(outcomes: Sequence[Done[Logits] | BaseException], decode_s: float) -> Computed:
    """What became of every image; the times are the longest of all.

    Raises:
        BaseException: What is not the fault of one image: the request's own end, or an error of ours.
    """
    logits: list[Logits | CorollaError] = []
    done: list[Done[Logits]] = []
    for outcome in outcomes:
        if isinstance(outcome, Done):
            done.append(outcome)
            logits.append(outcome.result)
        elif isinstance(outcome, CorollaError) and not isinstance(outcome, Expired | Draining):
            logits.append(outcome)
        else:
            raise outcome
    timings = Timings(
        decode_s=decode_s,
        queue_s=max((each.queue_s for each in done), default=0.0),
        forward_s=max((each.run_s for each in done), default=0.0),
    )
    return Computed(logits=logits, timings=timings)


def _image_answer(answer: Answer, prediction_id: str) -> ImageAnswer:
    return ImageAnswer(
        probabilities=answer.probabilities[0],
        predicted=int(answer.predicted[0]),
        votes=tuple(int(vote) for vote in answer.votes[0]),
        confidences=tuple(float(confidence) for confidence in answer.confidences[0]),
        agreement=float(answer.agreement[0]),
        entropy=float(answer.entropy[0]),
        mutual_information=float(answer.mutual_information[0]),
        prediction_id=prediction_id,
    )


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
        raise InvalidInput("the image has NaN or infinite values", field=field, remedy="send finite numbers")
    return torch.from_numpy(image.copy())  # the request's bytes are read-only
