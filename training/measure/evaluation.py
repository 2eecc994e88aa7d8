"""Measures routes on labelled images, in this process, through the rows that serve them.

Images are decoded once for all routes, and all routes answer an image in one forward: a member that stands
in several routes is computed once.

Shapes: n images, b of a batch, K members, C classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model_store.resolution.loading import Loader, MemberKey, member_key, model
from model_store.resolution.versions import Member, ResolvedRoute, ResolvedTerm
from petl_vit import methods
from petl_vit.architecture import Architecture
from petl_vit.batch import Batch
from petl_vit.combine import Answer, combine
from petl_vit.image_input import Preprocess
from petl_vit.logits import images_at_once, logits_of_images
from petl_vit.preprocess import normalise
from training.data import shifts
from training.data.dataset import align_classes
from training.data.loading import Resized
from training.data.records import Dataset

_IMAGES = 1024  # decoded at a time, so that any set fits in memory
_ADAPTER_BYTES = 2 * 2**30  # of adapters in memory at a time

Shift = tuple[str, int]
"""A corruption and its severity."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A route that is to be measured, and the temperature that it answers with."""

    route: ResolvedRoute
    temperature: float = 1.0

    @property
    def preprocess(self) -> Preprocess:
        return self.route.preprocess


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A route on one set of images.

    Attributes:
        precision: What it was computed in, fp32 or bf16.
        trained_on: How many of the images the route's adapters and base heads were trained on, as far as that
            is recorded.
    """

    route: str
    data: str
    images: int
    accuracy: float
    confidence: float
    agreement: float
    member_accuracies: dict[str, float]
    precision: str
    trained_on: int = 0


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What one candidate says about some images under one shift.

    Attributes:
        images: [b], their places in the dataset.
    """

    candidate: int
    shift: int
    images: NDArray[np.int64]
    answer: Answer


def measure(
    loader: Loader,
    resolved: ResolvedRoute,
    dataset: Dataset,
    *,
    shift: Shift | None = None,
    temperature: float = 1.0,
    advance: Callable[[int], None] = lambda n: None,
) -> Measured:
    """As `measure_all`, of one route under one shift."""
    candidates = [Candidate(route=resolved, temperature=temperature)]
    ((measured,),) = measure_all(loader, candidates, dataset, under=[shift], advance=advance)
    return measured


def measure_all(
    loader: Loader,
    candidates: Sequence[Candidate],
    dataset: Dataset,
    *,
    under: Sequence[Shift | None] = (None,),
    advance: Callable[[int], None] = lambda n: None,
) -> list[list[Measured]]:
    """Accuracy, mean confidence and agreement of routes: for each route, one for each shift.

    Args:
        dataset: Its classes are matched to each route's by name.
        under: Shifts, applied after resizing; None is the images as they are.
        advance: Called with the number of answers that are done; one for each route, shift and image.

    Raises:
        InvalidInput: The classes differ.
    """
    labels = [align_classes(dataset, c.route.classes).labels.numpy() for c in candidates]
    tallies = [[_Tally(truth) for _ in under] for truth in labels]
    for part in answers(loader, candidates, dataset, under=under):
        tallies[part.candidate][part.shift].add(part)
        advance(len(part.images))
    names = [dataset.name if shift is None else f"{dataset.name} {shift[0]}:{shift[1]}" for shift in under]
    return [
        [tally.measured(candidate.route, name, loader) for tally, name in zip(of_one, names, strict=True)]
        for candidate, of_one in zip(candidates, tallies, strict=True)
    ]


def answers(
    loader: Loader,
    candidates: Sequence[Candidate],
    dataset: Dataset,
    *,
    under: Sequence[Shift | None] = (None,),
) -> Iterator[Answered]:
    """What every candidate says about every image under every shift, in parts of any order."""
    for spec in dict.fromkeys(candidate.preprocess for candidate in candidates):
        alike = [i for i, candidate in enumerate(candidates) if candidate.preprocess == spec]
        vit = loader.vit(spec.image_size)
        groups = _groups(candidates, alike, vit.arch)
        forwards = [_Forward(loader, candidates, groups[0])] if len(groups) == 1 else None
        images = Resized(dataset, spec, vit, kept_bytes=0)
        for part in images.batches(_IMAGES):
            pixels = images.pixels(part)
            for number, shift in enumerate(under):
                seen = pixels if shift is None else shifts.apply(pixels, *shift, seed=int(part[0]))
                for forward in forwards or (_Forward(loader, candidates, group) for group in groups):
                    yield from forward.answers(seen, part.numpy(), shift=number)


class _Forward:
    """Candidates that answer an image in one forward; their adapters stay in memory while it is there."""

    def __init__(self, loader: Loader, candidates: Sequence[Candidate], places: Sequence[int]) -> None:
        self._candidates = {place: candidates[place] for place in places}
        self._spec = candidates[places[0]].preprocess
        routes = [candidate.route for candidate in self._candidates.values()]
        adapters = {digest: loader.adapter(t) for digest, t in _terms(routes).items()}
        self._models = {member_key(m): model(m, adapters) for route in routes for m in route.members}
        dense = sum(model.dense for model in self._models.values())
        self._batch = Batch(loader.vit(self._spec.image_size), folded_models=max(1, dense))

    def answers(self, pixels: Tensor, places: NDArray[np.int64], *, shift: int) -> Iterator[Answered]:
        """What the candidates say about images uint8 [n, 3, S, S] of these places in the dataset."""
        size = images_at_once(len(self._models))
        for start in range(0, len(pixels), size):
            images = normalise(pixels[start : start + size], self._spec)
            of_models = logits_of_images(self._batch, list(self._models.values()), images)
            logits = {key: z.double().numpy() for key, z in zip(self._models, of_models, strict=True)}
            for number, candidate in self._candidates.items():
                yield Answered(
                    candidate=number,
                    shift=shift,
                    images=places[start : start + size],
                    answer=_combined(candidate, logits),
                )


_Logits = dict[MemberKey, NDArray[np.float64]]


def _combined(candidate: Candidate, logits: _Logits) -> Answer:
    """A candidate's answer from its members' logits [b, C], each in the order of that member's classes."""
    route, stacked = candidate.route, []
    for member in route.members:
        z, order = logits[member_key(member)], route.class_order(member)
        stacked.append(z if order is None else z[:, list(order)])
    weights = np.array([member.weight for member in route.members])
    return combine(np.stack(stacked, axis=1), weights, rule=route.combine, temperature=candidate.temperature)


class _Tally:
    """What is known of one route on one set of images, image by image."""

    def __init__(self, labels: NDArray[np.int64]) -> None:
        self._labels = labels
        self._correct, self._members = list[NDArray[np.bool_]](), list[NDArray[np.bool_]]()
        self._confidence, self._agreement = list[NDArray[np.float64]](), list[NDArray[np.float64]]()

    def add(self, part: Answered) -> None:
        truth, answer = self._labels[part.images], part.answer
        self._correct.append(answer.predicted == truth)
        self._members.append(answer.votes == truth[:, None])
        self._confidence.append(answer.probabilities.max(axis=-1))
        self._agreement.append(answer.agreement)

    def measured(self, route: ResolvedRoute, name: str, loader: Loader) -> Measured:
        members = np.concatenate(self._members).mean(axis=0)
        return Measured(
            route=str(route),
            data=name,
            images=len(self._labels),
            accuracy=float(np.concatenate(self._correct).mean()),
            confidence=float(np.concatenate(self._confidence).mean()),
            agreement=float(np.concatenate(self._agreement).mean()),
            member_accuracies=dict(zip(_names(route), map(float, members), strict=True)),
            precision=str(loader.precision),
        )


def _terms(routes: Sequence[ResolvedRoute]) -> dict[str, ResolvedTerm]:
    """The adapters of routes by digest."""
    return {term.digest: term for route in routes for term in route.terms()}


def _groups(candidates: Sequence[Candidate], places: Sequence[int], arch: Architecture) -> list[list[int]]:
    """Candidates grouped so that the adapters of a group fit in memory; one too large for that is alone."""
    groups, nbytes = [list[int]()], dict[MemberKey, int]()
    for place in places:
        more = {member_key(m): _nbytes(m, arch) for m in candidates[place].route.members}
        if groups[-1] and sum((nbytes | more).values()) > _ADAPTER_BYTES:
            groups, nbytes = [*groups, []], {}
        groups[-1].append(place)
        nbytes |= more
    return groups


def _nbytes(member: Member, arch: Architecture) -> int:
    """Bytes of a member's adapters, and of the parameters that they may be folded into."""
    manifests = [t.manifest for t in member.terms if t.manifest is not None]
    return sum(2 * 4 * methods.get(m.method).configure(m.config).parameters(arch) for m in manifests)


def _names(resolved: ResolvedRoute) -> list[str]:
    """The members, each with its task where one is of another than the answer."""
    tasks = [member.task.spec.name for member in resolved.members]
    if set(tasks) == {resolved.task.spec.name}:
        return [str(member) for member in resolved.members]
    return [f"{task}/{member}" for task, member in zip(tasks, resolved.members, strict=True)]
