"""Zero-shot classifiers on their way into the store: CLIP's head, made from embeddings of class names.

From a file, a stranger's safetensors or npz, or from open_clip where the user has it. Knows no store and
runs no text model of its own. The head is `petl_vit.heads.ClipHead`; its definition is CLIP's
(arXiv 2103.00020), with the mean of the prompt templates' embeddings normalised again.

Shapes: C classes, D the backbone's width, E the width of the space that images and texts share.
"""

import importlib
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from model_store.format.zips import UNREADABLE
from model_store.names import check_printable
from model_store.sources import class_file
from petl_vit.architecture import describe
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import CorollaError, InvalidInput, NotFound, Unsupported
from petl_vit.heads import ClipHead
from petl_vit.image_input import Preprocess

EMBEDDINGS, PROJECTION, LOGIT_SCALE, CLASSES = "class_embeddings", "projection", "logit_scale", "classes"
TEMPLATES = ("a photo of a {}.",)
DEFAULT_LOGIT_SCALE = math.log(100)
_LARGEST_LOGIT_SCALE = 10.0  # CLIP's is at most ln 100 = 4.6; more is the scale and not its logarithm


@dataclass(frozen=True, kw_only=True)
class Request:
    """Where a classifier comes from: a file of embeddings, or a model of open_clip.

    Attributes:
        classes: A text file, or None where the file of embeddings names them.
        templates: Prompts for open_clip; none means `TEMPLATES`.
    """

    classes: Path | None = None
    embeddings: Path | None = None
    open_clip: str | None = None
    templates: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ZeroShot:
    """A classifier that no image has trained.

    Attributes:
        classes: Their names, in the order of the head's rows.
    """

    classes: tuple[str, ...]
    head: ClipHead


def read(request: Request, *, width: int) -> ZeroShot:
    """The classifier of a request.

    Args:
        width: D.

    Raises:
        NotFound: No such file.
        InvalidInput: Settings that do not go together, or what `from_file` and `from_open_clip` refuse.
        CorollaError: open_clip cannot load the model.
    """
    if (request.embeddings is None) == (request.open_clip is None):
        given = "neither embeddings nor" if request.embeddings is None else "both embeddings and"
        raise InvalidInput(f"{given} an open_clip model", field="embeddings", remedy="give one of the two")
    if request.embeddings is not None:
        if request.templates:
            raise InvalidInput(
                "embeddings are made already", field="templates", remedy="leave it out, or use --open-clip"
            )
        names = None if request.classes is None else class_file.read(request.classes)
        return from_file(request.embeddings, names, width=width)
    assert request.open_clip is not None
    if request.classes is None:
        raise InvalidInput(
            "open_clip needs class names", field="classes", remedy="give a text file, one name a line"
        )
    templates = request.templates or TEMPLATES
    return from_open_clip(
        request.open_clip, class_file.read(request.classes), width=width, templates=templates
    )


def preprocess(
    config: BackboneConfig,
    *,
    image_size: int | None = None,
    resize: str = "squash",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocess:
    """How a task's images reach the backbone; None means the backbone's own value.

    Raises:
        InvalidInput: The size is not a multiple of the patch size, or a value is out of range.
    """
    size = image_size or config.image_size
    describe(config).at(size)
    try:
        return Preprocess.model_validate(
            {"image_size": size, "resize": resize, "mean": mean or config.mean, "std": std or config.std}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInput(first["msg"], field=str(first["loc"][0])) from error


def from_file(path: Path, classes: tuple[str, ...] | None, *, width: int) -> ZeroShot:
    """The classifier of a safetensors or npz file.

    It holds `class_embeddings` [C, E], of any length each, `projection` [D, E], and may hold `logit_scale`,
    the logarithm of the factor (default ln 100), and in an npz `classes`.

    Args:
        classes: The names in the order of the embeddings; None where the file has them.
        width: D.

    Raises:
        NotFound: No such file.
        InvalidInput: It is neither kind of file, or something in it is missing, unknown or does not fit.
    """
    if not path.is_file():
        raise NotFound(f"{str(path)!r} is not a file", field="embeddings", remedy="check the path")
    check_printable(str(path), "embeddings")
    reader = {".npz": _read_npz, ".safetensors": _read_safetensors}.get(path.suffix)
    if reader is None:
        raise InvalidInput(
            f"{path.name} is neither .safetensors nor .npz",
            field="embeddings",
            remedy=f"save {EMBEDDINGS} and {PROJECTION} in one of them",
        )
    tensors, own_classes = reader(path)
    if (own_classes is None) == (classes is None):
        says = "does not name its classes" if classes is None else "names its classes itself"
        remedy = "give a text file, one name a line" if classes is None else "leave it out"
        raise InvalidInput(f"{path.name} {says}", field="classes", remedy=remedy)
    _check_names(path, tensors)
    scale = tensors.get(LOGIT_SCALE)
    if scale is not None and scale.numel() != 1:
        raise _unfit(f"{LOGIT_SCALE} has shape {tuple(scale.shape)}, not one number", "save one number")
    return _made(
        own_classes or classes or (),
        tensors[EMBEDDINGS],
        tensors[PROJECTION],
        DEFAULT_LOGIT_SCALE if scale is None else float(scale),
        width=width,
    )


def from_open_clip(
    name: str, classes: tuple[str, ...], *, width: int, templates: Sequence[str] = TEMPLATES
) -> ZeroShot:
    """The classifier that a model of open_clip makes of class names.

    Args:
        name: open_clip's MODEL:PRETRAINED, such as ViT-B-16:openai.
        templates: Each with `{}` where the class name goes; the embeddings of all are averaged.
        width: D.

    Raises:
        Unsupported: open_clip is not installed, or its model projects images in another way.
        InvalidInput: A bad template, no MODEL:PRETRAINED, or a model for another backbone.
        CorollaError: open_clip cannot load the model.
    """
    _check_templates(templates)
    if not classes:
        raise InvalidInput("there are no classes", field="classes", remedy="write one name a line")
    model, colon, pretrained = name.partition(":")
    if not (model and colon and pretrained):
        raise InvalidInput(
            f"{name!r} is not MODEL:PRETRAINED", field="open_clip", remedy="write ViT-B-16:openai"
        )
    network, tokenize = _load_open_clip(model, pretrained)
    with torch.inference_mode():
        rows = [_text_embedding(network, tokenize, name, templates) for name in classes]
    return _made(
        classes,
        torch.stack(rows),
        _visual_projection(network.visual, width),
        float(network.logit_scale),
        width=width,
    )


def _load_open_clip(model: str, pretrained: str) -> tuple[Any, Callable[[list[str]], Tensor]]:
    try:
        open_clip: Any = importlib.import_module("open_clip")
    except ImportError as error:
        raise Unsupported(
            "open_clip is not installed",
            field="open_clip",
            remedy="pip install open_clip_torch, or give the embeddings as a file with --embeddings",
        ) from error
    try:
        network = open_clip.create_model(model, pretrained=pretrained).eval()
        return network, open_clip.get_tokenizer(model)
    except Exception as error:  # the downloader's errors have no common class
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise CorollaError(
            f"open_clip cannot load {model}:{pretrained} ({first})",
            field="open_clip",
            remedy="see open_clip.list_pretrained(), check the network, or use --embeddings",
        ) from error


def _text_embedding(
    network: Any, tokenize: Callable[[list[str]], Tensor], name: str, templates: Sequence[str]
) -> Tensor:
    """[E]: the mean of the normalised embeddings of the templates."""
    texts = [template.replace("{}", name) for template in templates]
    embeddings: Tensor = network.encode_text(tokenize(texts)).float()
    return F.normalize(embeddings, dim=-1).mean(dim=0)


def _visual_projection(visual: Any, width: int) -> Tensor:
    """[D, E], of open_clip's own ViT or of one of timm's within it."""
    found = getattr(visual, "proj", None)
    if isinstance(found, Tensor):
        return found.detach()
    head = getattr(visual, "head", None)
    if isinstance(head, nn.Sequential):
        layers = [layer for layer in head if not isinstance(layer, nn.Dropout | nn.Identity)]
        if not layers:
            return torch.eye(width)
        if len(layers) == 1 and isinstance(layers[0], nn.Linear) and layers[0].bias is None:
            return layers[0].weight.detach().T
    raise Unsupported(
        "this model of open_clip has no linear projection of its image features",
        field="open_clip",
        remedy="use a ViT that has one, such as ViT-B-16:openai",
    )


def _made(
    classes: tuple[str, ...], embeddings: Tensor, projection: Tensor, logit_scale: float, *, width: int
) -> ZeroShot:
    """The classifier, if everything fits together."""
    if embeddings.dim() != 2 or len(embeddings) != len(classes):
        raise _unfit(
            f"{EMBEDDINGS} has shape {tuple(embeddings.shape)} and there are {len(classes)} classes",
            "save one row for each class, [C, E], in their order",
        )
    expected = (width, embeddings.shape[1])
    if tuple(projection.shape) != expected:
        turned = tuple(projection.shape) == expected[::-1]
        raise _unfit(
            f"{PROJECTION} has shape {tuple(projection.shape)} instead of {expected}, "
            "the backbone's width and that of the embeddings",
            "transpose it" if turned else "use the projection of this very backbone",
        )
    if not logit_scale <= _LARGEST_LOGIT_SCALE:
        raise _unfit(f"{LOGIT_SCALE} is {logit_scale:g}", "save the logarithm of the factor, such as ln 100")
    for name, tensor in ((EMBEDDINGS, embeddings), (PROJECTION, projection)):
        if not tensor.isfinite().all():
            raise _unfit(f"{name} holds NaN or an infinity", "make the file again")
    empty = [name for name, row in zip(classes, embeddings, strict=True) if not row.any()]
    if empty:
        raise _unfit(f"the embedding of class {empty[0]!r} is zero", "make the file again")
    weight = F.normalize(embeddings.double(), dim=-1) * math.exp(logit_scale)
    head = ClipHead(
        projection=projection.float().contiguous(), weight=weight.float(), bias=torch.zeros(len(classes))
    )
    return ZeroShot(classes=classes, head=head)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], None]:
    try:
        return dict(safetensors.torch.load_file(path)), None
    except SafetensorError as error:
        raise _unfit(f"{path.name} is not a whole safetensors file ({error})", "make it again") from error


def _read_npz(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except UNREADABLE as error:
        raise _unfit(
            f"{path.name} is not a whole npz file of plain arrays ({error})", "make it again without pickle"
        ) from error
    classes = arrays.pop(CLASSES, None)
    if classes is not None and classes.dtype.kind != "U":
        raise _unfit(f"{CLASSES} is an array of {classes.dtype}", "save an array of strings")
    wrong = [name for name, array in arrays.items() if array.dtype.kind not in "fiu"]
    if wrong:
        raise _unfit(f"{wrong[0]} is an array of {arrays[wrong[0]].dtype}", "save numbers")
    names = None if classes is None else tuple(map(str, classes.ravel()))
    return {name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays.items()}, names


def _check_names(path: Path, tensors: Mapping[str, Tensor]) -> None:
    missing = sorted({EMBEDDINGS, PROJECTION} - tensors.keys())
    unknown = sorted(tensors.keys() - {EMBEDDINGS, PROJECTION, LOGIT_SCALE})
    for label, names in (("lacks", missing), ("has an unknown", unknown)):
        if names:
            raise _unfit(
                f"{path.name} {label} {', '.join(names[:8])}",
                f"save {EMBEDDINGS} [C, E], {PROJECTION} [D, E] and, if it is not ln 100, {LOGIT_SCALE}",
            )


def _check_templates(templates: Sequence[str]) -> None:
    wrong = [template for template in templates if "{}" not in template]
    if wrong or not templates:
        problem = f"{wrong[0]!r} has no place for the class name" if wrong else "there is none"
        raise InvalidInput(problem, field="templates", remedy="write {} where it goes: 'a photo of a {}.'")


def _unfit(problem: str, remedy: str) -> InvalidInput:
    return InvalidInput(problem, field="embeddings", remedy=remedy)
