"""Digests: the identity of a backbone, a task and an adapter. docs/store-format.md has them byte by byte.

A digest covers what is computed, never names, metrics or dates.
Imports torch only where there are tensors, so that reading records does not wait for it.
"""

import hashlib
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import JsonValue

from model_store.format.canonical import canonical_json
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import Corrupt, InvalidInput
from petl_vit.image_input import Preprocess

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


def backbone_digest(config: BackboneConfig, tensors: "Mapping[str, Tensor]") -> str:
    """The identity of frozen weights: architecture, config and tensors."""
    return _digest(config.model_dump(mode="json"), tensors)


def task_digest(
    classes: tuple[str, ...], preprocess: Preprocess, backbone: str, base_head: "Mapping[str, Tensor]"
) -> str:
    """The identity of a task on a backbone: class names in order, preprocessing and the base head."""
    identity: JsonValue = {
        "classes": list(classes),
        "preprocess": preprocess.model_dump(mode="json"),
        "backbone_digest": backbone,
    }
    return _digest(identity, base_head)


def adapter_digest(
    *, method: str, config: dict[str, JsonValue], backbone: str, task: str, tensors: "Mapping[str, Tensor]"
) -> str:
    """The identity of an adapter: its method and config, what it was made for, and its tensors."""
    identity: JsonValue = {
        "method": method,
        "config": config,
        "backbone_digest": backbone,
        "task_digest": task,
    }
    return _digest(identity, tensors)


def check(actual: str, expected: str, *, key: str, remedy: str) -> None:
    """Refuse what does not have the digest that is expected of it.

    Raises:
        Corrupt: It has another; names the key and the remedy.
    """
    if actual != expected:
        raise Corrupt(f"digest {actual[:12]} instead of {expected[:12]}", field=key, remedy=remedy)


def _digest(identity: JsonValue, tensors: "Mapping[str, Tensor]") -> str:
    sha = hashlib.sha256()
    header = canonical_json(identity)
    sha.update(struct.pack("<Q", len(header)))
    sha.update(header)
    for name in sorted(tensors):
        _add_tensor(sha, name, tensors[name])
    return sha.hexdigest()


def _add_tensor(sha: "hashlib._Hash", name: str, tensor: "Tensor") -> None:
    import torch

    dtype = _DTYPES.get(str(tensor.dtype))
    if dtype is None:
        raise InvalidInput(f"tensor {name!r} has the dtype {tensor.dtype}, which the store does not keep")
    header = canonical_json({"name": name, "dtype": dtype, "shape": list(tensor.shape)})
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    sha.update(struct.pack("<Q", len(header)))
    sha.update(header)
    sha.update(struct.pack("<Q", data.nbytes))
    sha.update(data)
