"""The head of an adapter that brings none: the task's own, or one in a file.

A file has one linear head under any of the usual names, or CLIP's zero-shot head as
`model_store.sources.zero_shot` reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from model_store.format.records import TaskRecord
from model_store.format.tensors import not_finite
from model_store.sources import checkpoint, zero_shot
from model_store.sources.wrapping import listed
from petl_vit.errors import Corrupt, InvalidInput, NotFound

BASE = "base"
"""In the place of a file: the task's base head."""

_CLIP = ("head.projection", "head.weight", "head.bias")
_NAMES = ("head", "classifier", "fc", "linear", "classification_head")


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head on its way to an adapter.

    Attributes:
        tensors: `head.weight` and `head.bias`, and CLIP's `head.projection`.
        classes: Of its rows, where the file names them.
    """

    tensors: dict[str, Tensor]
    classes: tuple[str, ...] | None = None


def read(path: Path, task: TaskRecord, classes: Sequence[str] | None, *, width: int) -> Head:
    """The head in a file.

    Args:
        classes: Of its rows, as the user lists them.
        width: The width of the backbone's pooled feature.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It holds no head or several, or cannot be read without running code.
        Corrupt: It is not finite.
    """
    if not path.is_file():
        raise NotFound(f"{str(path)!r} is not a file", field="head", remedy="check the path")
    if path.suffix == ".npz":
        return _zero_shot(path, task, classes, width)
    try:
        found = checkpoint.all_tensors(path)
    except (InvalidInput, Corrupt) as error:
        raise error.about("head") from error
    if zero_shot.EMBEDDINGS in found:
        return _zero_shot(path, task, classes, width)
    head = {name: found[name] for name in _CLIP} if set(_CLIP) <= found.keys() else _linear(path, found)
    bad = not_finite(head)
    if bad is not None:
        raise Corrupt(f"{bad} holds NaN or an infinity", field="head", remedy="save it again")
    return Head(tensors=head)


def _zero_shot(path: Path, task: TaskRecord, classes: Sequence[str] | None, width: int) -> Head:
    named = path.suffix == ".npz" and classes is None
    found = zero_shot.from_file(path, None if named else tuple(classes or task.spec.classes), width=width)
    return Head(tensors=found.head.tensors(), classes=found.classes if named else None)


def _linear(path: Path, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The one linear head among a file's tensors."""
    weights = [name for name, tensor in found.items() if tensor.dim() == 2 and _is_head(name)]
    if len(weights) != 1:
        which = f"it has several, {', '.join(weights[:3])}" if weights else f"it holds {listed(found)}"
        raise InvalidInput(
            f"{path.name} has no one linear head: {which}",
            field="head",
            remedy="save weight [C, D] and bias [C] alone, or class_embeddings [C, E] with projection [D, E]",
        )
    weight = found[weights[0]].float()
    bias = found.get(f"{weights[0].removesuffix('weight')}bias")
    return {
        "head.weight": weight,
        "head.bias": weight.new_zeros(len(weight)) if bias is None else bias.float(),
    }


def _is_head(name: str) -> bool:
    place, _, kind = name.rpartition(".")
    return kind == "weight" and (not place or place.rpartition(".")[2] in _NAMES)


def check_width(head: Mapping[str, Tensor], *, features: int, width: int) -> None:
    """Refuses a linear head for another feature than the backbone's.

    Args:
        features: The width of the backbone's pooled feature; width: of its tokens.

    Raises:
        InvalidInput: It is one.
    """
    weight = head["head.weight"]
    if "head.projection" in head or weight.shape[1] == features:
        return
    if weight.shape[1] == 2 * width:
        why = "takes the class token with the mean of the patches behind it, as Dinov2ForImageClassification"
        remedy = "import the backbone once more with --option global_pool=token+avg, and give a task on it"
    else:
        why = "is of another model"
        remedy = "import it under a task on its own backbone, or add --head base"
        if features == 2 * width == 2 * weight.shape[1]:
            why = "takes one token, and the backbone gives the class token with the mean of the patches"
            remedy = "import the backbone once more without --option global_pool, and give a task on it"
    raise InvalidInput(
        f"its head has {weight.shape[1]} columns, and the backbone's feature {features} numbers: the head "
        f"{why}",
        field="head",
        remedy=remedy,
    )
