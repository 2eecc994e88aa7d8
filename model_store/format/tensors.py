"""Named tensors as safetensors bytes, checked both ways. Reading never executes anything.

Files are read whole and not mapped: the bytes whose digest was verified are the ones that are used,
whatever happens to the file afterwards. Imports torch only where there are tensors, so that reading records
does not wait for it.
"""

from collections.abc import Mapping
from math import isfinite
from typing import TYPE_CHECKING

from petl_vit.errors import Corrupt, InvalidInput

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 16 * 2**20
"""Of a file's header, which is parsed whole; a ViT's has some fifty thousand bytes."""


def encode(tensors: "Mapping[str, Tensor]") -> bytes:
    """Write tensors of any device as one safetensors file.

    Raises:
        InvalidInput: There is none, or one holds NaN or an infinity.
    """
    import safetensors.torch

    if not tensors:
        raise InvalidInput("there are no tensors to store", field="tensors")
    bad = not_finite(tensors)
    if bad is not None:
        raise InvalidInput(
            f"tensor {bad!r} holds NaN or an infinity", field="tensors", remedy="lower the learning rate"
        )
    # A copy each: safetensors refuses tensors that share memory, as tied or sliced weights do.
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain)


def decode(data: bytes | None, *, key: str, remedy: str) -> "dict[str, Tensor]":
    """Read what `encode` wrote, onto the CPU.

    Args:
        data: The whole file; None where there is none.
        key: Where it came from, for the error.
        remedy: What the user can do when it is damaged.

    Raises:
        Corrupt: It is missing, truncated, not safetensors, or holds NaN or an infinity.
    """
    if data is None:
        raise Corrupt("the file is missing", field=key, remedy=remedy)
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        check_header(data[:8], len(data))
        tensors = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        problem = f"not a whole safetensors file ({len(data):,} bytes: {error})"
        raise Corrupt(problem, field=key, remedy=remedy) from error
    bad = not_finite(tensors)
    if bad is not None:
        raise Corrupt(f"tensor {bad!r} holds NaN or an infinity", field=key, remedy=remedy)
    return dict(tensors)


def check_header(start: bytes, size: int) -> None:
    """Refuse a safetensors file whose header is too long to be parsed.

    Args:
        start: Its first eight bytes, or fewer.
        size: Bytes of the whole file.

    Raises:
        ValueError: It is longer than the file, or than `MAX_HEADER_BYTES`.
    """
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(f"a header of {length:,} bytes, in a file of {size:,}")


def not_finite(tensors: "Mapping[str, Tensor]") -> str | None:
    """The name of a tensor that holds NaN or an infinity, if any does."""
    return next((name for name, tensor in tensors.items() if not _finite(tensor)), None)


def _finite(tensor: "Tensor") -> bool:
    """A sum is one cheap pass, and what is not finite stays in it; only it, too, may overflow."""
    import torch

    if not tensor.is_floating_point() or isfinite(float(tensor.detach().sum(dtype=torch.float64))):
        return True
    return bool(torch.isfinite(tensor).all())
