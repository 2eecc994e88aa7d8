"""Whether a server's top classes are those of fp32 in process, on images that it can tell apart.

The images are JPEGs of ten random textures (`benchmarks.backends`); answers in process come from the same
JPEGs, so that nothing but the precision and the way through the server differs.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from benchmarks.adapters import HALF
from benchmarks.backends import fitted_head, textures, torch_back_end
from benchmarks.stores import TASK, Shelf
from benchmarks.traffic import ask_all
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import preprocess
from petl_vit.vit import FrozenViT
from serving.client.blocking import Client

_FITTED = 100
"""Images that the head is fitted to."""
_RANGE = 6.0
"""From about the darkest value of a texture to the brightest."""
_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Images, and what fp32 in process says of them.

    Attributes:
        classes: The top class of each.
        accuracy: The share of images whose top class is right.
    """

    jpegs: Sequence[bytes]
    classes: Sequence[int]
    accuracy: float


def prepared(vit: FrozenViT, count: int) -> tuple[LinearHead, Shown]:
    """A head that tells textures apart under the LoRA of seed 0, and so many new images answered by it."""
    size = vit.arch.image_size
    fitted, fitted_classes = textures(size, _FITTED, seed=0)
    head = fitted_head(vit, _inputs(_jpegs(fitted), size), fitted_classes)
    images, classes = textures(size, count, seed=1)
    jpegs, run = _jpegs(images), torch_back_end(vit, head)
    top = torch.cat([run(part) for part in _inputs(jpegs, size).split(_AT_ONCE)]).argmax(dim=1)
    accuracy = float((top == classes).float().mean())
    return head, Shown(jpegs=jpegs, classes=top.tolist(), accuracy=accuracy)


def share(client: Client, found: Shelf, shown: Shown) -> float:
    """The share of the images to which a server gives the same top class, under the LoRA of seed 0."""
    same = [False] * len(shown.jpegs)

    def ask(number: int) -> None:
        reply = client.classify([shown.jpegs[number]], route=found.adapters[0], task=TASK)
        result = reply.results[0]
        assert not result.error.code, result.error.message
        same[number] = result.top[0].class_index == shown.classes[number]

    ask_all(ask, range(len(same)))
    return sum(same) / len(same)


def _jpegs(images: Tensor) -> list[bytes]:
    pixels = ((images / _RANGE + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)
    return [_jpeg(image) for image in pixels]


def _jpeg(pixels: Tensor) -> bytes:
    """[S, S, 3] uint8 as a file."""
    out = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(out, "JPEG", quality=95)
    return out.getvalue()


def _inputs(jpegs: Sequence[bytes], size: int) -> Tensor:
    """[n, 3, S, S], as the server's task takes them."""
    how = Preprocess(image_size=size, mean=HALF, std=HALF)
    return torch.stack([preprocess(jpeg, how) for jpeg in jpegs])
