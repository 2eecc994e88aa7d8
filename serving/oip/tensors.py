"""Tensors as the Open Inference Protocol sends them: images in, answers out.

Knows neither protobuf nor gRPC. Blocking: called in the pool, as splitting and joining tensors computes.

Shapes: n images, C classes, k best of them, S the task's input size.
"""

import math
import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petl_vit.errors import InvalidInput
from serving.request import Image, ImageAnswer

INPUT = "images"
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True)
class Input:
    """A tensor that a client sent.

    Attributes:
        values: Its typed values, by the name of their list; lists without values are left out.
        shared: Whether it is said to lie in shared memory.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Mapping[str, Collection[Any]]
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An output that a client names.

    Attributes:
        best: How many of the best classes it wants, as text in the place of numbers; 0 wants numbers.
        shared: Whether it is to be written to shared memory.
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


# Images in


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How images of one datatype are sent."""

    layout: str
    values: str  # the list of typed values
    fits: Callable[[tuple[int, ...]], bool]


_KINDS = {
    "BYTES": _Kind(
        layout="[n] or [n, 1]", values="bytes_contents", fits=lambda shape: shape[1:] in ((), (1,))
    ),
    "UINT8": _Kind(
        layout="[n, H, W, 3]", values="uint_contents", fits=lambda shape: len(shape) == 4 and shape[3] == 3
    ),
    "FP32": _Kind(
        layout="[n, 3, S, S]", values="fp32_contents", fits=lambda shape: len(shape) == 4 and shape[1] == 3
    ),
}


def pictures_of(inputs: Sequence[Input], raw: Sequence[bytes], *, max_images: int) -> Collection[Image]:
    """The images of a request.

    Args:
        raw: Raw contents of the inputs; none where they are typed.
        max_images: Most images of one request.

    Raises:
        InvalidInput: It is not one tensor of images with as many values as its shape says.
    """
    if len(inputs) != 1:
        raise InvalidInput(
            f"the request has {len(inputs)} tensors, and images are one",
            field="inputs",
            remedy=f"send one named `{INPUT}`",
        )
    if len(raw) > 1:
        raise InvalidInput(f"{len(raw)} contents of one input", field="raw_input_contents")
    (tensor,) = inputs
    kind = _kind(tensor, max_images)
    if raw and tensor.values:
        raise InvalidInput(
            "the input has raw and typed contents", field="raw_input_contents", remedy="send one of them"
        )
    return _raw(tensor, raw[0]) if raw else _typed(tensor, kind)


def _kind(tensor: Input, max_images: int) -> _Kind:
    """How the images of a tensor are sent, after all that its description says is checked."""
    if tensor.name != INPUT:
        raise InvalidInput(
            f"{tensor.name[:80]!r} is unknown", field="inputs[0].name", remedy=f"name it `{INPUT}`"
        )
    if tensor.datatype not in _KINDS:
        raise InvalidInput(
            f"{tensor.datatype[:80]!r} is not taken",
            field="inputs[0].datatype",
            remedy="send BYTES, which are encoded images, UINT8 or FP32",
        )
    kind, shape = _KINDS[tensor.datatype], tensor.shape
    if not shape or min(shape) < 1 or not kind.fits(shape):
        raise InvalidInput(
            f"shape {_text(shape)} is not {kind.layout}",
            field="inputs[0].shape",
            remedy=f"send {tensor.datatype} in that layout",
        )
    if shape[0] > max_images:
        raise InvalidInput(
            f"{shape[0]:,} images in one request, at most {max_images} are taken",
            field="inputs[0].shape",
            remedy="send them in several requests",
        )
    if tensor.shared:
        raise InvalidInput(
            "shared memory is not read",
            field="inputs[0].parameters[shared_memory_region]",
            remedy="send the values in raw_input_contents",
        )
    return kind


def _raw(tensor: Input, data: bytes) -> Collection[Image]:
    if tensor.datatype == "BYTES":
        return _split(data, tensor.shape[0])
    dtype: np.dtype[Any] = np.dtype("u1" if tensor.datatype == "UINT8" else "<f4")
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidInput(
            f"{len(data):,} bytes are not shape {_text(tensor.shape)} of {tensor.datatype}, "
            f"which has {expected:,}",
            field="raw_input_contents[0]",
            remedy="send the values row-major, little-endian, without padding",
        )
    return np.frombuffer(data, dtype=dtype).reshape(tensor.shape)


def _split(data: bytes, count: int) -> list[bytes]:
    """Byte strings, each behind its length; a lone one may stand without, as perf_analyzer sends it."""
    found: list[bytes] = []
    at = 0
    while len(found) < count and at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        found.append(data[at - length : at])
    if len(found) == count and at == len(data):
        return found
    # The first bytes of a JPEG, PNG or WebP are no length that a message can have.
    if count == 1:
        return [data]
    raise InvalidInput(
        f"{len(data):,} bytes are not {count} images, each behind its length",
        field="raw_input_contents[0]",
        remedy="write the length of every image before it, 4 bytes, little-endian",
    )


def _typed(tensor: Input, kind: _Kind) -> Collection[Image]:
    for other in tensor.values.keys() - {kind.values}:
        raise InvalidInput(
            f"values of {tensor.datatype} stand in {kind.values}, not in {other}",
            field="inputs[0].contents",
            remedy="send them there, or in raw_input_contents",
        )
    values = tensor.values.get(kind.values, ())
    if len(values) != math.prod(tensor.shape):
        raise InvalidInput(
            f"{len(values):,} values are not shape {_text(tensor.shape)}, which has "
            f"{math.prod(tensor.shape):,}",
            field=f"inputs[0].contents.{kind.values}",
            remedy="send all of them, row-major, or raw_input_contents",
        )
    if tensor.datatype == "BYTES":
        return list(values)
    if tensor.datatype == "FP32":
        return np.fromiter(values, "f4", len(values)).reshape(tensor.shape)
    wide = np.fromiter(values, "u4", len(values)).reshape(tensor.shape)
    if wide.max() > 255:
        raise InvalidInput(
            f"{wide.max()} is no value of UINT8",
            field="inputs[0].contents.uint_contents",
            remedy="send 0 to 255",
        )
    return wide.astype(np.uint8)


def _text(shape: Sequence[int]) -> str:
    shown = ", ".join(map(str, shape[:8]))
    return f"[{shown}]" if len(shape) <= 8 else f"[{shown}, ...]"


# Answers out

Texts = list[str]


@dataclass(frozen=True, kw_only=True)
class _Answers:
    """The answers of a request: n of them.

    Attributes:
        top_k: How many classes of each are named; None is the answered one alone.
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
        """The classes that are named, [n] or [n, top_k]."""
        return self.best(1)[:, 0] if self.top_k is None else self.best(self.top_k)

    def column(self, read: Callable[[ImageAnswer], float]) -> NDArray[np.float32]:
        """One number per image [n]."""
        return np.array([read(image) for image in self.images], np.float32)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One output: what it says of every image.

    Attributes:
        per_class: Whether it has a number per class.
        read: Numbers, or an array of text.
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
            read=lambda a: np.stack([image.probabilities for image in a.images]).astype(np.float32),
            per_class=True,
        ),
        Column(name="label", datatype="BYTES", read=lambda a: np.array(a.classes, object)[a.indices()]),
        Column(name="class_index", datatype="INT64", read=lambda a: a.indices()),
        Column(name="agreement", datatype="FP32", read=lambda a: a.column(lambda one: one.agreement)),
        Column(name="entropy", datatype="FP32", read=lambda a: a.column(lambda one: one.entropy)),
        Column(
            name="mutual_information",
            datatype="FP32",
            read=lambda a: a.column(lambda one: one.mutual_information),
        ),
        Column(
            name="prediction_id",
            datatype="BYTES",
            read=lambda a: np.array([one.prediction_id for one in a.images], object),
        ),
    )
}


def check_wanted(wanted: Sequence[Wanted]) -> None:
    """Refuses outputs that there are not.

    Raises:
        InvalidInput: An unknown or repeated name, shared memory, or the best classes of what has none.
    """
    for position, output in enumerate(wanted):
        field = f"outputs[{position}]"
        if output.name not in COLUMNS:
            raise InvalidInput(
                f"{output.name[:80]!r} is unknown",
                field=f"{field}.name",
                remedy=f"choose from {', '.join(COLUMNS)}",
            )
        if output.name in (other.name for other in wanted[:position]):
            raise InvalidInput(f"{output.name!r} is asked for twice", field=f"{field}.name")
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
    images: Sequence[ImageAnswer], classes: tuple[str, ...], wanted: Sequence[Wanted], *, top_k: int | None
) -> Iterator[Output]:
    """The tensors of an answer: those that are wanted, or all.

    Args:
        top_k: How many classes of each image are named; None is the answered one alone.
    """
    answers = _Answers(images=images, classes=classes, top_k=top_k)
    for output in wanted or [Wanted(name=name) for name in COLUMNS]:
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
    """Texts, each behind its length."""
    encoded = (text.encode() for text in texts.flat)
    return b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
