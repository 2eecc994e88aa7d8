"""What a folder of a model hub says beside its weights: timm's and transformers' config.json.

Such a folder is what `snapshot_download`, `save_pretrained` and timm's `save_for_hf` write. The weights are
one file, or several with an index.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from petl_vit.errors import InvalidInput, NotFound, Unsupported

Triple = tuple[float, float, float]
Option = bool | int | float | str | None

WEIGHTS = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ADAPTER = "adapter_config.json"
_CONVERTED = ("vit", "deit", "vit_mae", "dinov2", "dinov2_with_registers")
_DINOV2 = ("dinov2", "dinov2_with_registers")
_OF_IMAGENET = ("vit_mae", *_DINOV2)
IMAGENET: tuple[Triple, Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""The mean and std of ImageNet."""

_NAMES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
_SIZES_OF_DINOV2 = ("small", "base", "large")
_ACTIVATIONS = ("gelu", "gelu_python")


@dataclass(frozen=True, kw_only=True)
class Said:
    """What is known of a checkpoint besides its tensors; None or empty where it does not say.

    Attributes:
        architecture: timm's model name, perhaps with a tag.
        options: For timm.create_model.
        image_size: Native, pixels.
        mean, std: Of the normalisation.
        classes: The classes of the head's rows.
    """

    architecture: str | None = None
    options: dict[str, Option] = field(default_factory=dict)
    image_size: int | None = None
    mean: Triple | None = None
    std: Triple | None = None
    classes: tuple[str, ...] | None = None


def files(folder: Path) -> list[Path]:
    """The files of weights in a folder.

    Raises:
        NotFound: There is none; says what the folder is where that can be seen.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
    for name in INDICES:
        if (folder / name).is_file():
            shards = _json(folder / name).get("weight_map")
            if isinstance(shards, dict) and all(isinstance(shard, str) for shard in shards.values()):
                return [folder / Path(shard).name for shard in sorted(set(shards.values()))]
            raise InvalidInput("it has no weight_map of names to files", field=name)
    if (folder / ADAPTER).is_file():
        raise InvalidInput(
            f"{folder} is a PEFT adapter and no whole model",
            field="source",
            remedy="use `corolla adapters import --format peft`",
        )
    raise NotFound(
        f"the folder {folder} has none of {', '.join(WEIGHTS)}",
        field="source",
        remedy="give the file of weights itself",
    )


def said(folder: Path) -> Said:
    """What the config files of a folder say.

    Raises:
        InvalidInput: One is not JSON.
        Unsupported: It is of a model of transformers that is not converted.
    """
    path = folder / "config.json"
    if not path.is_file():
        return Said()
    config = _json(path)
    if isinstance(config.get("architecture"), str):
        return _of_timm(config)
    if isinstance(config.get("model_type"), str):
        processor = folder / "preprocessor_config.json"
        return _of_transformers(config, _json(processor) if processor.is_file() else {})
    return Said()


def _of_timm(config: dict[str, Any]) -> Said:
    cfg = config.get("pretrained_cfg") if isinstance(config.get("pretrained_cfg"), dict) else {}
    assert isinstance(cfg, dict)
    args = config.get("model_args") if isinstance(config.get("model_args"), dict) else {}
    assert isinstance(args, dict)
    size = args.get("img_size") or (cfg.get("input_size") or [None])[-1]
    pool = config.get("global_pool")
    options = {n: v for n, v in args.items() if n not in ("img_size", "num_classes") and not _is_nested(v)}
    if pool == "avg":  # the only pooling that plain ViTs of one name differ in
        options.setdefault("global_pool", pool)
    names = config.get("label_names") or cfg.get("label_names")
    tag = cfg.get("tag")
    return Said(
        architecture=f"{config['architecture']}.{tag}" if tag else config["architecture"],
        options=options,
        image_size=size if isinstance(size, int) else None,
        mean=triple(cfg.get("mean")),
        std=triple(cfg.get("std")),
        classes=_texts(names),
    )


def _of_transformers(config: dict[str, Any], processor: dict[str, Any]) -> Said:
    kind = config["model_type"]
    if kind not in _CONVERTED:
        raise Unsupported(
            f"it is a {kind!r} of transformers, and those that are converted are {', '.join(_CONVERTED)}",
            field="source",
            remedy="save timm's version of the model, or import it from timm's hub by name",
        )
    if config.get("hidden_act", "gelu") not in _ACTIVATIONS or config.get("use_swiglu_ffn"):
        problem = f"its MLP is not the plain one with GELU but has {config.get('hidden_act')!r}"
        raise Unsupported(problem, field="source", remedy="use a plain ViT")
    width, patch = config.get("hidden_size", 0), config.get("patch_size")
    registers = "reg4_" if kind == "dinov2_with_registers" else ""
    family = f"{registers}dinov2" if kind in _DINOV2 else "224"
    size = _NAMES.get(width, "base")
    if kind in _DINOV2 and size not in _SIZES_OF_DINOV2:
        size = _SIZES_OF_DINOV2[0]  # its width is among the options
    depth, heads = config.get("num_hidden_layers"), config.get("num_attention_heads")
    options: dict[str, Option] = {"depth": depth, "embed_dim": width, "num_heads": heads}
    usual = IMAGENET if kind in _OF_IMAGENET else (None, None)
    return Said(
        architecture=f"vit_{size}_patch{patch}_{family}",
        options={n: v for n, v in options.items() if isinstance(v, int)},
        image_size=config["image_size"] if isinstance(config.get("image_size"), int) else None,
        mean=triple(processor.get("image_mean")) or usual[0],
        std=triple(processor.get("image_std")) or usual[1],
        classes=_labels(config.get("id2label")),
    )


def _labels(labels: object) -> tuple[str, ...] | None:
    """The names of id2label in order; None where they are transformers' LABEL_0, LABEL_1."""
    if not isinstance(labels, dict) or not all(str(key).isdecimal() for key in labels):
        return None
    names = tuple(str(labels[key]) for key in sorted(labels, key=int))
    return None if names == tuple(f"LABEL_{i}" for i in range(len(names))) else names


def _texts(names: object) -> tuple[str, ...] | None:
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def triple(values: object) -> Triple | None:
    """Three numbers of a JSON document; None for anything else."""
    if (
        not isinstance(values, list)
        or len(values) != 3
        or not all(isinstance(v, int | float) for v in values)
    ):
        return None
    red, green, blue = map(float, values)
    return red, green, blue


def _is_nested(value: object) -> bool:
    return isinstance(value, list | dict)


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise InvalidInput(
            f"not a JSON file ({error})", field=path.name, remedy="copy the folder again"
        ) from error
    if not isinstance(document, dict):
        raise InvalidInput("not a JSON object", field=path.name, remedy="copy the folder again")
    return document
