"""What a folder of a model hub says beside its weights: the configs of timm, transformers and open_clip.

Such a folder is what `snapshot_download`, `save_pretrained` and timm's `save_for_hf` write. The weights are
one file, or several with an index.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_store.sources.families import clip, registry
from model_store.sources.families.described import Described, Normalised
from model_store.sources.said import Said, Triple
from petl_vit.errors import InvalidInput, NotFound

WEIGHTS = (
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
ADAPTER = "adapter_config.json"
CONFIG, OPEN_CLIP, PROCESSORS = (
    "config.json",
    "open_clip_config.json",
    ("preprocessor_config.json", "processor_config.json"),
)
_USUAL: dict[Normalised, tuple[Triple, Triple]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and std that the weights of a family have."""
_RESAMPLING = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}
_OURS = "bicubic"


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
        InvalidInput: One is not JSON, or has a field that is not what it should be.
        Unsupported: It is of a model that the forward does not compute.
    """
    config = _json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if isinstance(config.get("architecture"), str):
        return _of_timm(config)
    if isinstance(config.get("model_type"), str):
        return _of_transformers(config, _processor(folder))
    if (folder / OPEN_CLIP).is_file():
        return _of_open_clip(_json(folder / OPEN_CLIP))
    return Said()


def _of_timm(config: dict[str, Any]) -> Said:
    cfg, args = _table(config, "pretrained_cfg"), _table(config, "model_args")
    size = args.get("img_size") or (cfg.get("input_size") or [None])[-1]
    pool = config.get("global_pool")
    options = {n: v for n, v in args.items() if n not in ("img_size", "num_classes") and not _is_nested(v)}
    if options.get("global_pool") == "":  # the feature of each token: here one is pooled
        del options["global_pool"]
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
        notes=_resampled(cfg.get("interpolation")),
    )


def _of_transformers(config: dict[str, Any], processor: dict[str, Any]) -> Said:
    found = registry.described(config)
    mean, std = _normalised(processor)
    said = replace(_described(found, mean=mean, std=std), classes=_labels(config.get("id2label")))
    notes = [*said.notes]
    resample = processor.get("resample")
    if isinstance(resample, int):
        notes += _resampled(_RESAMPLING.get(resample))
    size = _side(processor.get("crop_size") if processor.get("do_center_crop") else processor.get("size"))
    if size is not None and size != found.image_size:
        notes.append(
            f"its processor gives images of {size} px; as a backbone it has the {found.image_size} px of its "
            f"config, and `corolla train --image-size {size}` trains and serves at {size} px"
        )
    return replace(said, notes=tuple(notes))


def _of_open_clip(config: dict[str, Any]) -> Said:
    model, processor = _table(config, "model_cfg"), _table(config, "preprocess_cfg")
    mean, std = triple(processor.get("mean")), triple(processor.get("std"))
    notes = _resampled(processor.get("interpolation"))
    found = clip.read_open_clip(model)
    if found is not None:
        said = _described(found, mean=mean, std=std)
        return replace(said, notes=(*said.notes, *notes))
    tower = _table(model, "vision_cfg")
    name, size = tower.get("timm_model_name"), tower.get("image_size")
    return Said(
        architecture=name if isinstance(name, str) else None,
        image_size=size if isinstance(size, int) else None,
        mean=mean,
        std=std,
        notes=notes,
    )


def _described(found: Described, *, mean: Triple | None, std: Triple | None) -> Said:
    usual = _USUAL[found.normalised] if found.normalised is not None else (None, None)
    whose = (
        "as the folder says" if mean and std else "as the family's weights have, and the folder does not say"
    )
    return Said(
        architecture=found.architecture,
        options=dict(found.options),
        image_size=found.image_size,
        eps=found.eps,
        antialias=found.antialias,
        mean=mean or usual[0],
        std=std or usual[1],
        whose=whose,
        notes=found.notes,
    )


def _processor(folder: Path) -> dict[str, Any]:
    """What a folder of transformers says of how images reach the model."""
    for name in PROCESSORS:
        if (folder / name).is_file():
            config = _json(folder / name)
            return _table(config, "image_processor") or config
    return {}


def _normalised(processor: dict[str, Any]) -> tuple[Triple | None, Triple | None]:
    """Mean and std of pixels in [0, 1], of a processor that may scale them otherwise, or not at all."""
    mean, std = triple(processor.get("image_mean")), triple(processor.get("image_std"))
    if processor.get("do_normalize") is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1
    if mean is None or std is None or not isinstance(factor, int | float) or not factor > 0:
        return mean, std
    scale = 1 if abs(factor * 255 - 1) < 1e-6 else factor * 255
    return _divided(mean, scale), _divided(std, scale)


def _divided(values: Triple, scale: float) -> Triple:
    red, green, blue = values
    return red / scale, green / scale, blue / scale


def _resampled(interpolation: object) -> tuple[str, ...]:
    """What to say of a model whose images were resized otherwise than tasks do without being told."""
    if not isinstance(interpolation, str) or interpolation == _OURS:
        return ()
    remedy = "; `--interpolation bilinear` does so for a task" if interpolation == "bilinear" else ""
    return (f"its images were resized by {interpolation} interpolation, and tasks use {_OURS}{remedy}",)


def _side(size: object) -> int | None:
    """The side of a square that a processor's `size` or `crop_size` means; None where it is none."""
    if isinstance(size, dict):
        values = {size.get("height"), size.get("width")} if "height" in size else {size.get("shortest_edge")}
        size = values.pop() if len(values) == 1 else None
    return size if type(size) is int else None


def _table(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


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
