"""LoRA folders of Hugging Face PEFT, both ways: adapter_config.json and adapter_model.safetensors.

Ours are A [in, r] and B [r, out] with y += x A B; PEFT's are lora_A [r, in] and lora_B [out, r] with
y += scaling * lora_B(lora_A(x)), scaling = lora_alpha / r, or lora_alpha / sqrt(r) with rsLoRA. The scaling
goes into B on import; on export lora_alpha = r, so it is 1. What is not exactly such a sum is refused by
name. Needs no PEFT. Source: peft.tuners.lora (0.21).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from model_store.collections.adapters import Published
from model_store.format import tensors
from model_store.format.records import Manifest, TaskRecord
from model_store.interchange.foreign import Foreign, ordered_head
from model_store.store import Store
from petl_vit import methods
from petl_vit.architecture import Architecture, describe
from petl_vit.errors import Corrupt, InvalidInput, NotFound, Unsupported
from petl_vit.methods.lora import LoRA

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Target = Literal["qkv", "proj", "fc1", "fc2"]

_PREFIX = "base_model.model."
_SITES: dict[Target, str] = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
_LORA = re.compile(r"blocks\.(\d{1,4})\.(attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)\.lora_([AB])\.weight")
_HEAD = ("head.weight", "head.bias")
_REMEDY = "save it again with PEFT"
# Starts that leave the frozen weights as they are; others (PiSSA, OLoRA, CorDA, LoftQ) move part of them.
_STARTS = (True, False, "gaussian", "eva", "orthogonal")
# Says where layers are, how it was trained or where it came from; the tensors say what there is.
_INERT = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_dropout",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    ]
)


class _Config(BaseModel):
    """What of adapter_config.json has a meaning here. Further settings have to be off."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    peft_type: str
    r: int = Field(ge=1)
    lora_alpha: float
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    bias: str = "none"
    use_rslora: bool = False
    alpha_pattern: dict[str, float] = {}
    rank_pattern: dict[str, int] = {}
    modules_to_save: list[str] | None = None
    init_lora_weights: bool | str | None = True
    peft_version: str | None = None

    def scaling(self, module: str, rank: int) -> float:
        """The factor on a module's product of so many ranks.

        Raises:
            Corrupt: The config says another rank.
        """
        said = self.rank_pattern.get(_pattern(self.rank_pattern, module), self.r)
        if said != rank:
            raise Corrupt(f"{module} has rank {rank}, the config says {said}", field=WEIGHTS, remedy=_REMEDY)
        alpha = self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A PEFT folder after its config was found to mean what we can represent.

    Attributes:
        pairs: lora_A [r, in] and scaled lora_B [out, r] by timm's module name.
        head: `head.weight` and `head.bias`, or empty.
    """

    name: str
    config: dict[str, Any]
    dropout: float
    pairs: dict[str, tuple[Tensor, Tensor]]
    head: dict[str, Tensor]

    def register(
        self, store: Store, task: TaskRecord, *, name: str, classes: Sequence[str] | None
    ) -> tuple[Published, list[str]]:
        """Register it under a task; and what the user should know.

        Raises:
            InvalidInput: No head, or other classes than the task.
            Unsupported: A rank or a block that the backbone does not have.
            Corrupt: Shapes that are not the backbone's.
        """
        if not self.head:
            raise InvalidInput(
                "it brings no head",
                field="modules_to_save",
                remedy='train it with modules_to_save=["head"], so that the folder can classify',
            )
        config = store.backbones.get(task.spec.backbone_digest).config
        arch = describe(config).at(task.spec.preprocess.image_size)
        method, own, notes = self._ours(arch)
        if classes is None:
            notes.append("its head's rows were taken in the order of the task's classes")
        foreign = Foreign(
            method=method,
            tensors=own | ordered_head(self.head, task, classes),
            source={"imported_from": "peft", "folder": self.name, "adapter_config": self.config},
        )
        return foreign.register(store, task, name=name), notes

    def _ours(self, arch: Architecture) -> tuple[LoRA, dict[str, Tensor], list[str]]:
        """The method, its tensors, and what was filled with zeros."""
        used = {module.split(".", 2)[2] for module in self.pairs}
        targets = [target for target, site in _SITES.items() if site in used]
        rank = max(a.shape[0] for a, _ in self.pairs.values())
        method = LoRA.configure({"rank": rank, "dropout": self.dropout, "targets": targets})
        shapes, found, absent = method.shapes(arch), dict[str, Tensor](), []
        beyond = sorted(module for module in self.pairs if f"{module}.lora_a" not in shapes)
        if beyond:
            raise Unsupported(
                f"it has {beyond[0]}, and {arch.name} has {arch.depth} blocks",
                field="task",
                remedy="import it under a task on its own backbone",
            )
        for site in dict.fromkeys(name.rpartition(".")[0] for name in shapes):
            if site not in self.pairs:
                absent.append(site)
                found |= {n: torch.zeros(shapes[n]) for n in (f"{site}.lora_a", f"{site}.lora_b")}
                continue
            a, b = self.pairs[site]
            missing = rank - a.shape[0]  # further columns of zeros leave the product as it is
            found[f"{site}.lora_a"] = torch.nn.functional.pad(a, (0, 0, 0, missing)).T.contiguous()
            found[f"{site}.lora_b"] = torch.nn.functional.pad(b, (0, missing)).T.contiguous()
        notes = [f"not adapted, so stored as zeros: {', '.join(absent)}"] if absent else []
        return method, found, notes


def write(store: Store, manifest: Manifest) -> dict[str, bytes]:
    """The files of a PEFT folder for one version, by name.

    Raises:
        Unsupported: The method is not lora, or the head is not linear.
        Corrupt: A stored file is not what its digest says.
    """
    method = methods.get(manifest.method).configure(manifest.config)
    if not isinstance(method, LoRA):
        raise Unsupported(
            f"{manifest} is of the method {manifest.method}, and PEFT's format here is that of lora",
            field="format",
            remedy="use --format archive, or --format timm where the method folds",
        )
    loaded = store.adapters.load(manifest)
    head = {name: t for name, t in loaded.items() if name.startswith("head.")}
    if sorted(head) != sorted(_HEAD):
        raise Unsupported(
            f"{manifest} has no linear head, and a timm model in PEFT has one",
            field="format",
            remedy="use --format archive",
        )
    found = {f"{_PREFIX}{name}": tensor for name, tensor in head.items()}
    for name in loaded.keys() - head.keys():
        site, _, kind = name.rpartition(".")
        found[f"{_PREFIX}{site}.lora_{kind[-1].upper()}.weight"] = loaded[name].T.contiguous()
    config = _config_of(method)
    return {
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: tensors.encode(found),
    }


def _config_of(method: LoRA) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": method.rank,
        "lora_alpha": method.rank,
        "lora_dropout": method.dropout,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        # With the parent's name: `proj` alone would also be timm's patch_embed.proj.
        "target_modules": [_SITES[target] for target in _SITES if target in method.targets],
        "modules_to_save": ["head"],
    }


def read(folder: Path) -> Folder:
    """Read a PEFT folder.

    Raises:
        NotFound: It, or one of its two files, does not exist.
        Unsupported: It cannot be represented exactly; names what.
        Corrupt: It is not what PEFT writes.
    """
    if not folder.is_dir():
        raise NotFound(
            f"{folder} is not a folder", field="path", remedy=f"give the folder that holds {CONFIG}"
        )
    raw, config = _read_config(_file(folder, CONFIG))
    found = tensors.decode(_file(folder, WEIGHTS), key=WEIGHTS, remedy=_REMEDY)
    lora, head = _sorted(found)
    pairs = {}
    for module, kinds in lora.items():
        if kinds.keys() != {"A", "B"} or kinds["A"].dim() != 2 or kinds["B"].dim() != 2:
            raise Corrupt(f"{module} has no pair of lora_A and lora_B matrices", field=WEIGHTS)
        a, b = kinds["A"].float(), kinds["B"].float()
        if a.shape[0] != b.shape[1]:
            raise Corrupt(f"{module}: ranks {a.shape[0]} and {b.shape[1]} differ", field=WEIGHTS)
        pairs[module] = (a, config.scaling(module, a.shape[0]) * b)
    return Folder(name=folder.name, config=raw, dropout=config.lora_dropout, pairs=pairs, head=head)


def _file(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise NotFound(
            f"{folder} has no {name}",
            field="path",
            remedy="save it with model.save_pretrained(folder); pickles (.bin) are never read",
        ) from None
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read ({error.strerror})", field="path") from error


def _read_config(data: bytes) -> tuple[dict[str, Any], _Config]:
    try:
        raw = json.loads(data)
        assert isinstance(raw, dict)
        if raw.get("peft_type") != "LORA":
            raise _refusal(f"peft_type {raw.get('peft_type')!r}", "LORA alone is a method here")
        config = _Config.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise Corrupt(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", field=CONFIG) from error
    except (AssertionError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Corrupt(f"not a JSON object ({error})", field=CONFIG) from error
    _check_meaning(raw, config)
    return raw, config


def _check_meaning(raw: Mapping[str, Any], config: _Config) -> None:
    """Refuses every setting that changes what the tensors mean."""
    if raw.get("use_dora"):
        raise _refusal("use_dora", "DoRA rescales the whole weight by a norm of it")
    if config.bias != "none":
        raise _refusal(f"bias {config.bias!r}", "it trains biases too")
    if config.init_lora_weights not in _STARTS and config.init_lora_weights is not None:
        raise _refusal(
            f"init_lora_weights {config.init_lora_weights!r}", "it may start from changed frozen weights"
        )
    others = [module for module in config.modules_to_save or [] if module != "head"]
    if others:
        raise _refusal(f"modules_to_save {others[0]!r}", "only timm's `head` can travel")
    for name in sorted(raw.keys() - _INERT):
        if raw[name]:  # what a later PEFT adds is refused unless it is off
            raise _refusal(name, f"it is {str(raw[name])[:60]!r} and not off")


def _refusal(what: str, why: str) -> Unsupported:
    return Unsupported(
        f"{what} cannot be represented exactly: {why}",
        field=CONFIG,
        remedy="train a plain LoRA, or merge it in PEFT and import the merged model with --format timm",
    )


def _sorted(found: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """LoRA matrices by module and kind, and the head; anything else is refused by name."""
    lora: dict[str, dict[str, Tensor]] = {}
    head: dict[str, Tensor] = {}
    for full_name, tensor in sorted(found.items()):
        name = full_name.removeprefix(_PREFIX)
        match = _LORA.fullmatch(name)
        if match is not None:
            lora.setdefault(f"blocks.{int(match[1])}.{match[2]}", {})[match[3]] = tensor
        elif name in _HEAD:
            head[name] = tensor.float()
        else:
            raise _foreign(name)
    if not lora:
        raise Corrupt("it holds no LoRA matrix of a timm ViT", field=WEIGHTS)
    if head and (sorted(head) != sorted(_HEAD) or head["head.weight"].dim() != 2):
        raise Corrupt("its head is not a linear layer with a bias", field=WEIGHTS)
    return lora, head


def _foreign(name: str) -> Unsupported:
    where = f"({', '.join(get_args(Target))} of a timm ViT's blocks can be adapted)"
    if name.startswith("patch_embed."):
        return Unsupported(
            f"it adapts {name.partition('.lora')[0]}, a convolution {where}",
            field=WEIGHTS,
            remedy='`proj` also matches it: train with target_modules=["attn.proj"] instead',
        )
    return Unsupported(
        f"it holds {name[:80]} {where}",
        field=WEIGHTS,
        remedy="train a plain LoRA of these linears, with modules_to_save=['head']",
    )


def _pattern(patterns: Mapping[str, float] | Mapping[str, int], module: str) -> str:
    """The first pattern that PEFT would match with a module, else the module itself."""
    for pattern in patterns:
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return pattern
        except re.error as error:
            raise Corrupt(f"{pattern!r} is not a pattern ({error})", field=CONFIG) from error
    return module
