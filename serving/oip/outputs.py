"""Tensors of the Open Inference Protocol that answers become.

Knows neither protobuf nor gRPC. Blocking: called in the pool, as joining tensors computes.

Shapes: n images, C classes, k of the best classes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petl_vit.errors import InvalidInput
from serving.oip.tensors import LENGTH
from serving.request import ImageAnswer


@dataclass(frozen=True, kw_only=True)
class RequestedOutput:
    """An output that a client names.

    Attributes:
        best: How many of the best classes to send, as text instead of numbers; 0 sends numbers.
        shared: Whether the client asks for it in shared memory.
    """

    name: str
    best: int = 0
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Output:
    """A tensor of answers."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes


Texts = list[str]


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """The n answers of a request.

    Attributes:
        top_k: How many classes of each are named; None names the answered one alone.
    """

    images: Sequence[ImageAnswer]
    classes: tuple[str, ...]
    top_k: int | None

    def best(self, count: int) -> NDArray[np.int64]:
        """The classes of each image [n, count]: the answered one, then by probability."""
        probabilities = np.stack([image.probabilities for image in self.images])
        answered = np.array([[image.predicted] for image in self.images])
        np.put_along_axis(probabilities, answered, np.inf, axis=1)
        return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]

    def indices(self) -> NDArray[np.int64]:
        """The indices of the named classes, [n] or [n, top_k]."""
        return self.best(1)[:, 0] if self.top_k is None else self.best(self.top_k)

    def column(self, read: Callable[[ImageAnswer], float]) -> NDArray[np.float32]:
        """One number per image [n]."""
        return np.array([read(image) for image in self.images], np.float32)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One output, with a value for every image.

    Attributes:
        per_class: Whether it has a number per class.
        read: Returns numbers, or an array of text.
    """

    name: str
    datatype: str
    read: Callable[[_Answers], NDArray[Any]]
    per_class: bool = False

    def shape(self, classes: int) -> tuple[int, ...]:
        """Its shape for one image."""
        return (classes,) if self.per_class else ()


COLUMNS = {
    column.name: column
    for column in (
        Column(
            name="probabilities",
            datatype="FP32",
            read=lambda answers: np.stack([image.probabilities for image in answers.images]).astype(
                np.float32
            ),
            per_class=True,
        ),
        Column(
            name="label",
            datatype="BYTES",
            read=lambda answers: np.array(answers.classes, object)[answers.indices()],
        ),
        Column(name="class_index", datatype="INT64", read=lambda answers: answers.indices()),
        Column(
            name="agreement",
            datatype="FP32",
            read=lambda answers: answers.column(lambda image: image.agreement),
        ),
        Column(
            name="entropy", datatype="FP32", read=lambda answers: answers.column(lambda image: image.entropy)
        ),
        Column(
            name="mutual_information",
            datatype="FP32",
            read=lambda answers: answers.column(lambda image: image.mutual_information),
        ),
        Column(
            name="members_asked",
            datatype="INT64",
            read=lambda answers: np.array([image.members_asked for image in answers.images], np.int64),
        ),
        Column(
            name="prediction_id",
            datatype="BYTES",
            read=lambda answers: np.array([image.prediction_id for image in answers.images], object),
        ),
        Column(
            name="label_request",
            datatype="FP32",
            read=lambda answers: answers.column(
                lambda image: image.label_request.probability if image.label_request else 0.0
            ),
        ),
    )
}


def check_outputs(outputs: Sequence[RequestedOutput]) -> None:
    """Refuses outputs that do not exist.

    Raises:
        InvalidInput: An unknown or repeated name, shared memory, or the best classes of an output without.
    """
    for position, output in enumerate(outputs):
        field = f"outputs[{position}]"
        if output.name not in COLUMNS:
            raise InvalidInput(
                f"{output.name[:80]!r} is unknown",
                field=f"{field}.name",
                remedy=f"choose from {', '.join(COLUMNS)}",
            )
        if output.name in (other.name for other in outputs[:position]):
            raise InvalidInput(f"{output.name!r} is requested twice", field=f"{field}.name")
        if output.shared:
            raise InvalidInput(
                "shared memory is not written",
                field=f"{field}.parameters[shared_memory_region]",
                remedy="take the values from raw_output_contents",
            )
        if output.best and not COLUMNS[output.name].per_class:
            raise InvalidInput(
                f"{output.name!r} has no classes to choose from",
                field=f"{field}.parameters[classification]",
                remedy="ask for it of `probabilities`",
            )


def outputs_of(
    images: Sequence[ImageAnswer],
    classes: tuple[str, ...],
    requested: Sequence[RequestedOutput],
    *,
    top_k: int | None,
) -> Iterator[Output]:
    """The tensors of an answer: the requested ones, or all.

    Args:
        top_k: How many classes of each image are named; None names the answered one alone.
    """
    answers = _Answers(images=images, classes=classes, top_k=top_k)
    for output in requested or [RequestedOutput(name=name) for name in COLUMNS]:
        column = COLUMNS[output.name]
        if output.best:
            yield _output(output.name, "BYTES", _as_text(answers, output.best))
        else:
            yield _output(output.name, column.datatype, column.read(answers))


def _as_text(answers: _Answers, count: int) -> NDArray[Any]:
    """The best classes [n, k] as Triton writes them: `probability:index:class`."""
    best = answers.best(count)
    texts = np.empty(best.shape, object)
    for (row, place), index in np.ndenumerate(best):
        probability = answers.images[row].probabilities[index]
        texts[row, place] = f"{probability:.6f}:{index}:{answers.classes[index]}"
    return texts


def _output(name: str, datatype: str, values: NDArray[Any]) -> Output:
    raw = _joined(values) if datatype == "BYTES" else values.astype(values.dtype.newbyteorder("<")).tobytes()
    return Output(name=name, datatype=datatype, shape=values.shape, raw=raw)


def _joined(texts: NDArray[Any]) -> bytes:
    """Texts, each after its length."""
    encoded = (text.encode() for text in texts.flat)
    return b"".join(LENGTH.pack(len(text)) + text for text in encoded)
