"""Tensors of the Open Inference Protocol that become images; `serving.oip.outputs` are those of answers.

Knows neither protobuf nor gRPC. Blocking: called in the pool, as splitting tensors computes.

Shapes: n images, S the task's input size.
"""

import math
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from petl_vit.errors import InvalidInput
from serving.request import Image

INPUT = "images"
LENGTH = struct.Struct("<I")
"""Stands before every image, and every text, in raw bytes."""


@dataclass(frozen=True, kw_only=True)
class Input:
    """A tensor that a client sent.

    Attributes:
        values: Its typed values, by the name of their list; empty lists are left out.
        shared: Whether the client says that it lies in shared memory.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Mapping[str, Collection[Any]]
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """How images of one datatype are sent.

    Attributes:
        shape: For people.
        values: The name of the list of typed values.
        fits: Whether a tensor's shape is one of this layout.
    """

    shape: str
    values: str
    fits: Callable[[tuple[int, ...]], bool]


_LAYOUTS = {
    "BYTES": _Layout(
        shape="[n] or [n, 1]", values="bytes_contents", fits=lambda shape: shape[1:] in ((), (1,))
    ),
    "UINT8": _Layout(
        shape="[n, H, W, 3]", values="uint_contents", fits=lambda shape: len(shape) == 4 and shape[3] == 3
    ),
    "FP32": _Layout(
        shape="[n, 3, S, S]", values="fp32_contents", fits=lambda shape: len(shape) == 4 and shape[1] == 3
    ),
}


def images_of(inputs: Sequence[Input], raw: Sequence[bytes], *, max_images: int) -> Collection[Image]:
    """The images of a request.

    Args:
        raw: Raw contents of the inputs; empty where they are typed.
        max_images: Most images of one request.

    Raises:
        InvalidInput: It is not one tensor of images with as many values as its shape says.
    """
    if len(inputs) != 1:
        raise InvalidInput(
            f"the request has {len(inputs)} tensors, and takes one",
            field="inputs",
            remedy=f"send one named `{INPUT}`",
        )
    if len(raw) > 1:
        raise InvalidInput(
            f"the request has {len(raw)} raw contents for one input",
            field="raw_input_contents",
            remedy="send one",
        )
    (tensor,) = inputs
    layout = _layout(tensor, max_images)
    if raw and tensor.values:
        raise InvalidInput(
            "the input has raw and typed contents", field="raw_input_contents", remedy="send one of them"
        )
    return _raw(tensor, raw[0]) if raw else _typed(tensor, layout)


def _layout(tensor: Input, max_images: int) -> _Layout:
    """The layout of a tensor, whose description is checked: name, datatype, shape and place."""
    if tensor.name != INPUT:
        raise InvalidInput(
            f"{tensor.name[:80]!r} is unknown", field="inputs[0].name", remedy=f"name it `{INPUT}`"
        )
    if tensor.datatype not in _LAYOUTS:
        raise InvalidInput(
            f"{tensor.datatype[:80]!r} is not a datatype of images",
            field="inputs[0].datatype",
            remedy="send BYTES, which are encoded images, UINT8 or FP32",
        )
    layout, shape = _LAYOUTS[tensor.datatype], tensor.shape
    if not shape or min(shape) < 1 or not layout.fits(shape):
        raise InvalidInput(
            f"shape {_shape_text(shape)} is not {layout.shape}",
            field="inputs[0].shape",
            remedy=_remedy(tensor),
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
    return layout


def _remedy(tensor: Input) -> str:
    """What to send instead of a shape that does not fit its datatype."""
    match tensor.datatype, tensor.shape:
        case "UINT8", (_,) | (_, _):
            return "send encoded images as BYTES of shape [n]; UINT8 are their pixels"
        case "UINT8", (_, _, 3):
            return "add the number of images before it, as in [1, H, W, 3]"
        case "FP32", (_, _, _, 3):
            return "send the channels before height and width; FP32 are preprocessed images"
        case datatype, _:
            return f"send {datatype} in that layout"


def _raw(tensor: Input, data: bytes) -> Collection[Image]:
    if tensor.datatype == "BYTES":
        return _split(data, tensor.shape[0])
    dtype: np.dtype[Any] = np.dtype("u1" if tensor.datatype == "UINT8" else "<f4")
    expected = math.prod(tensor.shape) * dtype.itemsize
    if len(data) != expected:
        raise InvalidInput(
            f"{len(data):,} bytes are not shape {_shape_text(tensor.shape)} of {tensor.datatype}, "
            f"which has {expected:,}",
            field="raw_input_contents[0]",
            remedy="send the values row-major, little-endian, without padding",
        )
    return np.frombuffer(data, dtype=dtype).reshape(tensor.shape)


def _split(data: bytes, count: int) -> list[bytes]:
    """Byte strings, each after its length; a single one may have none, as perf_analyzer sends it."""
    images: list[bytes] = []
    end = 0
    while len(images) < count and end + LENGTH.size <= len(data):
        (length,) = LENGTH.unpack_from(data, end)
        end += LENGTH.size + length
        images.append(data[end - length : end])
    if len(images) == count and end == len(data):
        return images
    # No image begins with its own length: read as one, the first bytes of most are more than any message.
    if count == 1:
        return [data]
    raise InvalidInput(
        f"{len(data):,} bytes are not {count} images, each after its length",
        field="raw_input_contents[0]",
        remedy="write the length of every image before it, 4 bytes, little-endian",
    )


def _typed(tensor: Input, layout: _Layout) -> Collection[Image]:
    for other in tensor.values.keys() - {layout.values}:
        raise InvalidInput(
            f"values of {tensor.datatype} belong in {layout.values}, not in {other}",
            field="inputs[0].contents",
            remedy=f"send them in {layout.values}, or in raw_input_contents",
        )
    values = tensor.values.get(layout.values, ())
    if len(values) != math.prod(tensor.shape):
        raise InvalidInput(
            f"{len(values):,} values are not shape {_shape_text(tensor.shape)}, which has "
            f"{math.prod(tensor.shape):,}",
            field=f"inputs[0].contents.{layout.values}",
            remedy="send all of them, row-major, or raw_input_contents",
        )
    if tensor.datatype == "BYTES":
        return list(values)
    if tensor.datatype == "FP32":
        return np.fromiter(values, "f4", len(values)).reshape(tensor.shape)
    wide = np.fromiter(values, "u4", len(values)).reshape(tensor.shape)
    if wide.max() > 255:
        raise InvalidInput(
            f"{wide.max()} is not a value of UINT8",
            field="inputs[0].contents.uint_contents",
            remedy="send 0 to 255",
        )
    return wide.astype(np.uint8)


def _shape_text(shape: Sequence[int]) -> str:
    shown = ", ".join(map(str, shape[:8]))
    return f"[{shown}]" if len(shape) <= 8 else f"[{shown}, ...]"
