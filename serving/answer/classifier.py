"""The classifier: a request from names and bytes to answers, whatever the protocol.

    plan (catalog) -> models (adapter cache) -> decode (pool) -> rows (batcher, engine) -> combine -> count

Knows neither protobuf nor gRPC. The event loop only waits here; decoding, combining and counting run
in the pool, forwards in the engine's thread.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from petl_vit.batch import Model, Witness
from petl_vit.errors import CorollaError, Draining, Expired, InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import from_array, normalise, preprocess, resize
from serving.access import rights
from serving.access.caller import current
from serving.access.principals import ANONYMOUS, Principal
from serving.answer.frozen import NO_SHARE, Frozen, FrozenShare, parted
from serving.answer.image_answer import Counting
from serving.answer.lookups import Lookups
from serving.answer.rounds import Asking, Outcome, ask
from serving.answer.shares import place_of
from serving.engine.batcher import Batcher, Done
from serving.engine.engine import Job, Logits
from serving.engine.fair_queue import Party
from serving.engine.priority import EVERYBODY, Priority
from serving.engine.weights import TaskWeights
from serving.metrics.recorder import Recorder
from serving.registry.adapter_cache import AdapterCache
from serving.registry.catalog import Catalog, Plan
from serving.request import Image, Request, Response, Timings

T = TypeVar("T")

_LARGEST = 1e6
"""Of the values of a float32 image, far beyond what preprocessing gives: larger ones overflow."""


@dataclass(frozen=True, kw_only=True)
class Computed:
    """What the engine computed of a request's images, in their order; of one that failed, its error.

    Attributes:
        logits: Of every member, as the route lists them; of a cascade, of those asked, in that order.
        all_asked: Of a cascade, whether an image was put to all members, whatever its answer needs.
        frozen: What the frozen backbone says of an image; None where it was not asked.
    """

    logits: list[Logits | CorollaError]
    timings: Timings
    all_asked: Sequence[bool]
    frozen: Sequence[Frozen | None]


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """One image on its way to the engine.

    Attributes:
        whole: Whether a cascade puts it to all its members.
        witness: What it is put to besides.
    """

    image: torch.Tensor
    whole: bool = False
    witness: Witness | None = None


class Classifier:
    """Answers requests.

    Args:
        pool: Threads for everything that computes outside the engine.
        max_images: Most images of one request.
        max_pixels: Most pixels of one encoded image.
        cascade_full_share: Of the images that a cascade puts to all its members.
        frozen_share: Of the images of named routes that are also put to the frozen backbone.
        weights: What tasks get of a busy engine.
        lookups: Where the store is asked for names; None is `pool`.
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
        cascade_full_share: float = 0.0,
        frozen_share: FrozenShare = NO_SHARE,
        weights: TaskWeights | None = None,
        lookups: Lookups | None = None,
    ) -> None:
        self._lookups = lookups or Lookups(pool)
        self._catalog, self._cache, self._batcher = catalog, cache, batcher
        self._recorder, self._pool = recorder, pool
        self._max_images, self._max_pixels = max_images, max_pixels
        self._cascade_full_share, self._frozen_share = cascade_full_share, frozen_share
        self._weights = weights or TaskWeights()

    async def classify(self, request: Request, finish: Callable[[Response], T]) -> T:
        """Answers every image, or says of each what is wrong with it.

        Args:
            finish: Turns the answer into what its protocol sends; runs in the pool.

        Raises:
            InvalidInput: No image, too many, or a route that cannot be answered.
            NotFound: A name of the route does not exist.
            Forbidden: The caller may not use one.
            Corrupt: An adapter's files are damaged.
            Overloaded, Expired, Draining: See `serving.engine.batcher`.
        """
        with self._batcher.accepted():
            return await self.answer(request, await self.plan(request), finish)

    async def answer(self, request: Request, plan: Plan, finish: Callable[[Response], T]) -> T:
        """As `classify`, by a plan that is made and announced before."""
        with self._batcher.accepted():
            computed = await self.compute(request, plan)
            return await self.in_pool(lambda: finish(self._respond(request, plan, computed)))

    def accepted(self) -> AbstractContextManager[None]:
        """A request is under way while the block lasts: the server does not stop before its end.

        Raises:
            Draining: The server is stopping.
        """
        return self._batcher.accepted()

    async def plan(self, request: Request) -> Plan:
        """How a request is to be answered.

        Raises:
            InvalidInput: No image, too many, or a route that cannot be answered.
            NotFound: A name of the route does not exist.
            Forbidden: The caller may not use one.
            Overloaded: The caller has sent as many rows as it may.
            Unreachable: The store, which has to be asked for a name, does not answer.
        """
        self._check_count(len(request.images))
        caller = current()
        if self._catalog.known(request.task, request.route, extrapolate=request.extrapolate) is None:
            plan = await self._lookups.run(self._prepare, request, caller.principal)
        else:
            plan = await self.in_pool(self._prepare, request, caller.principal)
        caller.take_rows(len(request.images) * _first_members(plan))
        return plan

    async def compute(
        self, request: Request, plan: Plan, readout: Callable[[Model], Model] | None = None
    ) -> Computed:
        """Runs every image under every member of the plan.

        Args:
            readout: Maps a member to what is read out in the place of classes.

        Raises:
            InvalidInput, Corrupt, Overloaded, Expired, Draining: As `classify` does.
        """
        count = len(request.images)
        with self._cache.lease(plan.resolved) as lease:
            started = time.monotonic()
            rows, nbytes = count * _first_members(plan), count * _input_bytes(plan.resolved.preprocess)
            with self._batcher.preparing(count, rows=rows, nbytes=nbytes, **self._place(request, plan)):
                images = await self._decode_all(request, plan, shares=readout is None)
                decode_s = time.monotonic() - started
                loading = (asyncio.shield(asyncio.wrap_future(future)) for future in lease.loading.values())
                # `models` raises what to say of them all.
                await asyncio.gather(*loading, return_exceptions=True)
            models = lease.models()
            if readout is not None:
                models = tuple(map(readout, models))
            good = [image for image in images if isinstance(image, _Ready)]
            ran = iter(await self._run(good, models, request, plan))
        outcomes = [next(ran) if isinstance(image, _Ready) else (image, None) for image in images]
        return _computed(outcomes, decode_s, [isinstance(image, _Ready) and image.whole for image in images])

    def _place(self, request: Request, plan: Plan) -> "_Place":
        return {
            "flow": " ".join(term.digest for term in plan.resolved.terms()),
            "priority": request.priority,
            "task": self._weights.party(plan.resolved.task.spec.name),
            "principal": _party(),
            "client": request.client,
        }

    async def _decode_all(
        self, request: Request, plan: Plan, *, shares: bool
    ) -> list[_Ready | BaseException]:
        """Every image ready for the backbone, or what is wrong with it.

        Args:
            shares: Whether images are chosen for shares.
        """
        full = self._cascade_full_share if shares and plan.cascade is not None else 0.0
        frozen = self._frozen_share if shares and self._frozen_share.applies(plan) else None

        def ready(image: Image, position: int) -> _Ready:
            decoded = self._decode(image, plan.resolved.preprocess, position)
            if full == 0 and frozen is None:
                return _Ready(image=decoded)
            place = place_of(image)
            witness = None if frozen is None else frozen.witness(plan, place)
            return _Ready(image=decoded, whole=place < full, witness=witness)

        decoding = (self.in_pool(ready, image, position) for position, image in enumerate(request.images))
        return await asyncio.gather(*decoding, return_exceptions=True)

    async def _run(
        self, images: Sequence[_Ready], models: tuple[Model, ...], request: Request, plan: Plan
    ) -> list[tuple[Outcome, Frozen | None]]:
        """The logits of images under every model that a plan asks, and what their witnesses say."""
        submit = partial(self._batcher.submit, deadline=request.deadline, **self._place(request, plan))
        if plan.cascade is None:
            jobs = [Job(image=one.image, models=models, witness=one.witness) for one in images]
            return [*map(parted, jobs, await submit(jobs))]
        said = dict[int, Frozen]()

        async def first_parted(jobs: Sequence[Job], *, later: bool) -> list[Outcome]:
            if later:
                current().add_rows(sum(job.rows for job in jobs))
            outcomes = [*map(parted, jobs, await submit(jobs, later=later))]
            if not later:
                said.update({i: frozen for i, (_, frozen) in enumerate(outcomes) if frozen is not None})
            return [outcome for outcome, _ in outcomes]

        outcomes = await ask(
            Asking(resolved=plan.resolved, cascade=plan.cascade),
            [one.image for one in images],
            models,
            all_of=[one.whole for one in images],
            witnesses=[one.witness for one in images],
            submit=first_parted,
            in_pool=self.in_pool,
        )
        return [(outcome, said.get(i)) for i, outcome in enumerate(outcomes)]

    def _prepare(self, request: Request, principal: Principal) -> Plan:
        plan = rights.plan(
            self._catalog, principal, request.task, request.route, extrapolate=request.extrapolate
        )
        spec = plan.resolved.preprocess
        _check_shape(next(iter(request.images)), spec)
        self.announce(plan)
        return plan

    def announce(self, plan: Plan) -> None:
        """Makes a named route known to the metrics, with the versions of its members."""
        self._recorder.announce(plan.named, plan.resolved, void=plan.void)

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
        counting = Counting(plan=plan, recorder=self._recorder, domain=domain)
        images = counting.answers(computed.logits, computed.all_asked)
        counting.frozen(images, computed.frozen)
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

    async def in_pool(self, function: Callable[..., T], *args: object) -> T:
        """Runs what computes off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)


class _Place(TypedDict):
    """Where work waits, and what it shares the engine with."""

    flow: str
    priority: Priority
    task: Party
    principal: Party
    client: str


def _first_members(plan: Plan) -> int:
    """Rows of an image at first: a cascade asks one member, and others later."""
    return 1 if plan.cascade is not None else len(plan.resolved.members)


def _input_bytes(spec: Preprocess) -> int:
    """Of one image as the backbone takes it, float32 [3,S,S]."""
    return 3 * spec.image_size**2 * 4


def _party() -> Party:
    """Who was let in, with what they get of a busy engine."""
    principal = current().principal
    return EVERYBODY if principal is ANONYMOUS else Party(principal.name, principal.weight)


def _computed(
    outcomes: Sequence[tuple[Outcome, Frozen | None]], decode_s: float, all_asked: Sequence[bool]
) -> Computed:
    """What became of every image; the times are the longest of all.

    Raises:
        BaseException: What is not the fault of one image: the request's own end, or an error of ours.
    """
    logits: list[Logits | CorollaError] = []
    done: list[Done[Logits]] = []
    for outcome, _ in outcomes:
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
    frozen = [said for _, said in outcomes]
    return Computed(logits=logits, timings=timings, all_asked=all_asked, frozen=frozen)


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
    if np.abs(image).max() > _LARGEST:
        raise InvalidInput(
            f"the image has values beyond {_LARGEST:,.0f}",
            field=field,
            remedy="send (x / 255 - mean) / std of the task's preprocessing, which are small numbers",
        )
    return torch.from_numpy(image.copy())  # the request's bytes are read-only
