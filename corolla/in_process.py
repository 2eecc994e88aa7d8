"""The server's core in this process: images of any kind in, answers in their order out.

Images are read in groups, and one group is decoded while another is computed, so any number of them fits in
memory.
"""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from corolla.answers import Embedding, Prediction
from model_store.resolution.versions import ResolvedRoute
from model_store.routes.algebra import Route
from petl_vit.errors import CorollaError, InvalidInput
from petl_vit.preprocess import from_pillow
from serving.answer.classifier import Classifier
from serving.answer.features import FROZEN, embed
from serving.bulk.sources import Source
from serving.request import Embeddings, Request, Response
from serving.request import Image as RequestImage
from serving.settings import Settings
from serving.torchserve.embedded import Embedded

_log = logging.getLogger(__name__)

ImageLike = bytes | str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""An encoded image, its path, a Pillow image, or pixels uint8 [H, W] or [H, W, 1, 3 or 4]."""
Advance = Callable[[int], None]

_GROUP = 32
_UNDER_WAY = 2
"""Groups at a time: one is decoded while the other is computed."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class _Answered(Protocol[T_co]):
    """What the core says of a group of images."""

    @property
    def images(self) -> Sequence[T_co | CorollaError]: ...

    @property
    def resolved(self) -> ResolvedRoute: ...


_Ask = Callable[[Classifier, list[RequestImage]], Awaitable[_Answered[T]]]
_Outcome = tuple[T | CorollaError, ResolvedRoute | None]
"""What was computed of an image, and by what; its error, and None where nothing was computed."""


class InProcess:
    """Answers in this process, by one resident backbone; warm once constructed.

    Args:
        settings: As of a server; what is about its ports plays no part.

    Raises:
        CorollaError: A setting cannot work, or the store has no such backbone.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        # Nobody sends the ids of predictions back, so their key goes when this does.
        self._folder = TemporaryDirectory()
        try:
            key = f"{self._folder.name}/key"
            fixed = {"prediction_key_file": key, "cascade_full_share": 0.0, "frozen_share": 0.0}
            self._settings = Settings.read({**settings, **fixed})
            self._embedded = Embedded(self._settings)
            self._notes: set[str] = set()
        except BaseException:
            self._folder.cleanup()
            raise

    def close(self) -> None:
        """Finishes what is under way, and frees the memory."""
        self._embedded.close()
        self._folder.cleanup()

    def follow(self) -> None:
        """Follows what has changed in the store."""
        self._embedded.follow()

    @staticmethod
    def several(images: Iterable[ImageLike]) -> list[ImageLike]:
        """The images of a call; refuses one image, which would be taken apart."""
        one = isinstance(images, bytes | str | os.PathLike) or getattr(images, "ndim", None) in (2, 3)
        if one or not isinstance(images, Iterable):
            raise InvalidInput("it is a single image", field="images", remedy="put it in a list")
        return [*images]

    def classify(
        self,
        images: Sequence[ImageLike],
        *,
        route: Route,
        task: str,
        extrapolate: bool,
        top_k: int,
        advance: Advance,
    ) -> list[Prediction]:
        """What a route says of each image.

        Args:
            advance: Called with the number of images that are done.

        Raises:
            CorollaError: The route cannot be answered. A bad image has its error instead.
        """

        def ask(classifier: Classifier, request_images: list[RequestImage]) -> Awaitable[Response]:
            request = Request(task=task, route=route, images=request_images, extrapolate=extrapolate)
            return classifier.classify(request, noted)

        def noted(response: Response) -> Response:
            if response.route_note and response.route_note not in self._notes:
                self._notes.add(response.route_note)
                _log.warning("route %s: %s", route, response.route_note)
            return response

        return [
            Prediction(
                outcome=outcome,
                route="" if resolved is None else str(resolved),
                classes=() if resolved is None else resolved.classes,
                top_k=top_k,
            )
            for outcome, resolved in self._outcomes(images, ask, advance)
        ]

    def embed(
        self,
        images: Sequence[ImageLike],
        *,
        route: Route | None,
        task: str,
        normalise: bool,
        extrapolate: bool,
        advance: Advance,
    ) -> list[Embedding]:
        """The features of each image under one model; a route of None is the frozen backbone.

        Raises:
            CorollaError: As `classify`.
        """

        def ask(classifier: Classifier, request_images: list[RequestImage]) -> Awaitable[Embeddings]:
            request = Request(
                task=task, route=route or FROZEN, images=request_images, extrapolate=extrapolate
            )
            return embed(classifier, request, lambda answer: answer, unit=normalise)

        return [
            Embedding(outcome=outcome, route="" if resolved is None else str(resolved))
            for outcome, resolved in self._outcomes(images, ask, advance)
        ]

    def _outcomes(self, images: Sequence[ImageLike], ask: _Ask[T], advance: Advance) -> list[_Outcome[T]]:
        """What is computed of every image, in order."""

        async def work(classifier: Classifier) -> list[_Outcome[T]]:
            found: list[_Outcome[T]] = []
            under_way: deque[asyncio.Task[list[_Outcome[T]]]] = deque()
            try:
                for start in range(0, len(images), _GROUP):
                    group = self._group(classifier, images[start : start + _GROUP], start, ask, advance)
                    under_way.append(asyncio.create_task(group))
                    if len(under_way) == _UNDER_WAY:
                        found += await under_way.popleft()
                while under_way:
                    found += await under_way.popleft()
            finally:
                for group_left in under_way:
                    group_left.cancel()
            return found

        return self._embedded.run(work)

    async def _group(
        self,
        classifier: Classifier,
        images: Sequence[ImageLike],
        start: int,
        ask: _Ask[T],
        advance: Advance,
    ) -> list[_Outcome[T]]:
        read = await asyncio.gather(*(classifier.in_pool(self._request_image, image) for image in images))
        good = [one for one in read if not isinstance(one, CorollaError)]
        answered = await ask(classifier, good) if good else None
        outcomes = iter(() if answered is None else answered.images)
        resolved = None if answered is None else answered.resolved
        advance(len(images))
        return [
            (_about(start + i, one if isinstance(one, CorollaError) else next(outcomes)), resolved)
            for i, one in enumerate(read)
        ]

    def _request_image(self, image: ImageLike) -> RequestImage | CorollaError:
        """An image as the core takes it, or what is wrong with it."""
        try:
            if isinstance(image, bytes):
                return image
            if isinstance(image, str | os.PathLike):
                path = os.fspath(image)
                return Source(path=path, file=path).read(self._settings.max_message_bytes)
            if isinstance(image, Image.Image):
                return from_pillow(image)
            return _pixels(image)
        except CorollaError as error:
            return error


def _pixels(image: object) -> NDArray[np.uint8]:
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise InvalidInput(
            f"a {type(image).__name__} of dtype {array.dtype}",
            remedy="give a path, bytes, a Pillow image, or pixels as uint8",
        )
    return array


def _about(number: int, outcome: T | CorollaError) -> T | CorollaError:
    """An outcome whose error names the image by its place in the whole list."""
    if not isinstance(outcome, CorollaError):
        return outcome
    return outcome.about(f"images[{number}]")
