"""What the server must answer, computed here from the store, and which versions a name may mean when."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.stores import TASK
from model_store.resolution.loading import Loader
from model_store.resolution.versions import resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.batch import Batch
from petl_vit.image_input import Preprocess
from petl_vit.logits import logits_of_images
from petl_vit.preprocess import preprocess

TOLERANCE = 1e-3
"""Most that a probability may differ from the one computed here, in fp32."""
STALE_S = 5.0
"""A moved name is followed within a second; an answer by its former version is stale after this long."""


class Verdict(StrEnum):
    """What an answer is."""

    RIGHT = "right"
    STALE = "stale"
    WRONG = "wrong"


@dataclass(frozen=True, kw_only=True)
class Route:
    """A route as a client writes it, and its members.

    Attributes:
        members: A pinned version (`name:1`), or a name that moves (`name@prod`), each once.
    """

    text: str
    members: tuple[str, ...]

    @classmethod
    def of(cls, *members: str) -> "Route":
        """The ensemble of some members, of equal weights."""
        return cls(text=", ".join(members), members=members)


@dataclass(kw_only=True)
class _Meaning:
    """A version that a name stood for, and until when."""

    digest: str
    since: float
    until: float = math.inf


@dataclass(kw_only=True)
class Expected:
    """The logits of every known version over the images, and what names mean when. Threads may share it.

    Attributes:
        images: As clients send them.
    """

    store: Store
    images: Sequence[bytes]
    preprocess: Preprocess
    _logits: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    _pinned: dict[str, str] = field(default_factory=dict)
    _moves: dict[str, list[_Meaning]] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def __post_init__(self) -> None:
        self._record = self.store.backbones.get("bench")
        self._loader = Loader(self.store, self._record)
        self._pixels = {self.preprocess: self._stacked(self.preprocess)}

    def learn(self, pinned: str, task: str = TASK) -> str:
        """Computes a version, `name:1`, of the store; returns its digest."""
        route = parse_route(pinned)
        resolved = resolve(
            route, task=task, store=self.store, backbone_digest=self._record.digest, extrapolate=False
        )
        spec = resolved.preprocess
        with self._lock:
            (model,) = self._loader.models(resolved)
            if spec not in self._pixels:
                self._pixels[spec] = self._stacked(spec)
            batch = Batch(self._loader.vit(spec.image_size))
            (logits,) = logits_of_images(batch, [model], self._pixels[spec])
        digest = next(resolved.terms()).digest
        self._logits[digest], self._pinned[pinned] = logits.double().numpy(), digest
        return digest

    @contextmanager
    def moving(self, name: str, digest: str) -> Iterator[None]:
        """While the block lasts a name comes to stand for another version; after it, the move is done."""
        moves = self._moves.setdefault(name, [])
        before = moves[-1] if moves else None
        moves.append(_Meaning(digest=digest, since=time.monotonic()))
        yield
        if before is not None:
            before.until = time.monotonic()

    def digest(self, pinned: str) -> str:
        return self._pinned[pinned]

    def judge(self, route: Route, image: int, answer: Any, sent: float) -> tuple[Verdict, str]:
        """What an answer to one image is, and what is wrong with it.

        Args:
            answer: A ClassifyResponse with probabilities.
            sent: When the request was, time.monotonic() seconds.
        """
        digests = {adapter.digest for adapter in answer.adapters}
        stale = False
        for member in route.members:
            known = {meaning.digest for meaning in self._meanings(member)}
            meant = {m.digest for m in self._meanings(member) if m.until >= sent - STALE_S}
            if not digests & known:
                return Verdict.WRONG, f"{route.text} was answered by {answer.route}"
            stale |= not digests & meant
        if len(digests) != len(route.members):
            return Verdict.WRONG, f"{route.text} was answered by {answer.route}"
        found = np.array(answer.results[0].probabilities)
        far = np.abs(found - self._probabilities(digests)[image]).max()
        if not far <= TOLERANCE:
            return Verdict.WRONG, f"{answer.route}: a probability is off by {far:.2g}"
        return (
            (Verdict.STALE, f"{route.text} was answered by {answer.route}") if stale else (Verdict.RIGHT, "")
        )

    def closest(self) -> float:
        """How far apart the two most alike versions are: the largest difference of a probability."""
        pairs = combinations([self._probabilities({digest}) for digest in list(self._logits)], 2)
        return min(float(np.abs(a - b).max()) for a, b in pairs)

    def _meanings(self, member: str) -> list[_Meaning]:
        pinned = self._pinned.get(member)
        return self._moves[member] if pinned is None else [_Meaning(digest=pinned, since=0.0)]

    def _probabilities(self, digests: set[str]) -> NDArray[np.float64]:
        """[images, C] of the ensemble of some versions."""
        mean = np.mean([self._logits[digest] for digest in digests], axis=0)
        exponents = np.exp(mean - mean.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    def _stacked(self, spec: Preprocess) -> torch.Tensor:
        return torch.stack([preprocess(image, spec) for image in self.images])
