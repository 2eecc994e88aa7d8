"""What a client asks and what it is answered, whatever the protocol."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_store.resolution.versions import ResolvedRoute
from model_store.routes.algebra import Route
from petl_vit.errors import CorollaError, InvalidInput
from serving.engine.priority import Priority
from serving.metrics.label_requests import LabelRequest

MAX_CLIENT = 128

Encoded = bytes
Pixels = NDArray[np.uint8]
"""[H, W, 3], resized and normalised by the server."""
Preprocessed = NDArray[np.float32]
"""[3, S, S], taken as preprocessed."""
Image = Encoded | Pixels | Preprocessed


class BadScores(CorollaError):
    """A model gave NaN or infinite logits for an image."""


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
        images: At least one. A tensor is a collection of images as it is, all of one kind.
        deadline: time.monotonic() seconds, or None.
        client: Who asks: clients share the engine fairly.
    """

    task: str
    route: Route
    images: Collection[Image]
    domain: str = ""
    extrapolate: bool = False
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    client: str = ""


@dataclass(frozen=True, kw_only=True)
class ImageAnswer:
    """The answer for one image; K members, C classes.

    Attributes:
        votes, confidences: None for a member that a cascade did not ask.
        agreement, mutual_information: Of the members asked.
        label_request: Where the true label is wished for.
    """

    probabilities: NDArray[np.float64]  # [C]
    predicted: int
    votes: tuple[int | None, ...]  # [K]
    confidences: tuple[float | None, ...]  # [K]
    agreement: float
    entropy: float
    mutual_information: float
    prediction_id: str
    label_request: LabelRequest | None = None

    @property
    def members_asked(self) -> int:
        """How many members the answer is of."""
        return sum(vote is not None for vote in self.votes)

    def best(self, count: int) -> list[int]:
        """The most probable classes: the predicted one, then by probability, then by index."""
        order = np.lexsort((np.arange(len(self.probabilities)), -self.probabilities))
        return [self.predicted, *(int(i) for i in order if i != self.predicted)][:count]


@dataclass(frozen=True, kw_only=True)
class Timings:
    """How long a request took, in seconds.

    Attributes:
        decode_s: All its images.
        queue_s: The longest wait for the engine; of a cascade's image, of all its rounds together.
        forward_s: The longest batch; of a cascade's image, of all its rounds together.
    """

    decode_s: float
    queue_s: float
    forward_s: float


@dataclass(frozen=True, kw_only=True)
class Response:
    """Answers in the order of the request's images; an image that failed has its error instead.

    Attributes:
        domain: What the images are counted as in the metrics.
        domain_note: Why that is not the request's domain, with near matches; else empty.
        route_note: Why the temperature is not the one stored for the route, or may not fit, or why a
            cascade's thresholds are not applied; else empty.
    """

    images: list[ImageAnswer | CorollaError]
    resolved: ResolvedRoute
    timings: Timings
    domain: str
    domain_note: str
    route_note: str = ""


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """Features [D] in the order of the request's images; an image that failed has its error instead."""

    images: list[NDArray[np.float32] | CorollaError]
    resolved: ResolvedRoute
    timings: Timings
