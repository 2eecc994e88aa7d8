"""LoRA folders of Hugging Face PEFT, both ways: adapter_config.json and adapter_model.safetensors.

Ours are A [in, r] and B [r, out] with y += x A B; PEFT's are lora_A [r, in] and lora_B [out, r] with
y += scaling * lora_B(lora_A(x)), scaling = lora_alpha / r, or lora_alpha / sqrt(r) with rsLoRA. The scaling
goes into B on import; on export lora_alpha = r, so it is 1. What is not exactly such a sum is refused by
name. Over a ViT of transformers, LoRAs of queries, keys and values become one of qkv of their ranks' sum,
which is exact. Needs no PEFT. Source: peft.tuners.lora (0.21).
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from model_store.collections.adapters import Published
from model_store.format import tensors
from model_store.format.records import Manifest, TaskRecord
from model_store.interchange.foreign import Foreign, Order, ordered_head, rows
from model_store.interchange.peft_names import (
    HEAD,
    HEADS,
    OF_TRANSFORMERS,
    PREFIX,
    SITES,
    WEIGHTS,
    fused,
    site_of,
    sorted_out,
)
from model_store.sources import file_kind, hub_folder, pickled
from model_store.store import Store
from petl_vit import methods
from petl_vit.architecture import Architecture, describe
from petl_vit.errors import Corrupt, InvalidInput, NotFound, Unsupported
from petl_vit.methods.lora import LoRA

CONFIG, PICKLED = "adapter_config.json", "adapter_model.bin"

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
        notes: What was taken off or converted.
    """

    name: str
    config: dict[str, Any]
    dropout: float
    pairs: dict[str, tuple[Tensor, Tensor]]
    head: dict[str, Tensor]
    notes: tuple[str, ...] = ()

    def register(
        self,
        store: Store,
        task: TaskRecord,
        *,
        name: str,
        classes: Sequence[str] | None,
        order: Order | None = None,
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
        named, of_rows = rows(task, classes, order)
        foreign = Foreign(
            method=method,
            tensors=own | ordered_head(self.head, task, named),
            source={"imported_from": "peft", "folder": self.name, "adapter_config": self.config},
        )
        return foreign.register(store, task, name=name), [*self.notes, *notes, *of_rows]

    def _ours(self, arch: Architecture) -> tuple[LoRA, dict[str, Tensor], list[str]]:
        """The method, its tensors, and what was filled with zeros."""
        used = {module.split(".", 2)[2] for module in self.pairs}
        targets = [target for target, site in SITES.items() if site in used]
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
    if sorted(head) != sorted(HEAD):
        raise Unsupported(
            f"{manifest} has no linear head, and a timm model in PEFT has one",
            field="format",
            remedy="use --format archive",
        )
    found = {f"{PREFIX}{name}": tensor for name, tensor in head.items()}
    for name in loaded.keys() - head.keys():
        site, _, kind = name.rpartition(".")
        found[f"{PREFIX}{site}.lora_{kind[-1].upper()}.weight"] = loaded[name].T.contiguous()
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
        "target_modules": [SITES[target] for target in SITES if target in method.targets],
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
        raise _not_a_folder(folder)
    raw, config = _read_config(_file(folder, CONFIG))
    found, notes = _weights(folder)
    lora, head, prefix = sorted_out(found)
    if prefix and prefix not in OF_TRANSFORMERS:
        notes.append(f"the prefix {f'{prefix}.'!r} was taken off all names")
    thirds: dict[str, dict[int | None, tuple[Tensor, Tensor]]] = {}
    for path, kinds in lora.items():
        if kinds.keys() != {"A", "B"} or kinds["A"].dim() != 2 or kinds["B"].dim() != 2:
            raise Corrupt(f"{path} has no pair of lora_A and lora_B matrices", field=WEIGHTS)
        a, b = kinds["A"].float(), kinds["B"].float()
        if a.shape[0] != b.shape[1]:
            raise Corrupt(f"{path}: ranks {a.shape[0]} and {b.shape[1]} differ", field=WEIGHTS)
        adapted = site_of(path)
        assert adapted is not None  # sorted out before
        thirds.setdefault(adapted.module, {})[adapted.part] = (a, config.scaling(path, a.shape[0]) * b)
    if any(None not in parts for parts in thirds.values()):
        notes.append("it is of a ViT of transformers: LoRAs of q, k and v became one of qkv, exactly")
    if raw.get("base_model_name_or_path"):
        base = str(raw["base_model_name_or_path"])[:80]
        notes.append(f"it was trained over {base!r}, and is right only over a backbone of those weights")
    return Folder(
        name=folder.name,
        config=raw,
        dropout=config.lora_dropout,
        pairs={module: parts[None] if None in parts else fused(parts) for module, parts in thirds.items()},
        head=head,
        notes=tuple(notes),
    )


def _not_a_folder(path: Path) -> NotFound:
    if not path.exists():
        problem, remedy = "does not exist", f"give the folder that holds {CONFIG}"
    elif path.name in (CONFIG, WEIGHTS, PICKLED):
        problem, remedy = "is a file of a PEFT folder", f"give the folder: {path.parent}"
    else:
        problem = "is a file and not a folder of PEFT"
        remedy = "a whole checkpoint has --format timm, a file of `corolla adapters export` --format archive"
    return NotFound(f"{path} is not a folder: it {problem}", field="path", remedy=remedy)


def _weights(folder: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a folder; and what the user should know of their file."""
    if (folder / WEIGHTS).exists() or not (folder / PICKLED).is_file():
        data = _file(folder, WEIGHTS)
        file_kind.check(data, WEIGHTS)
        return tensors.decode(data, key=WEIGHTS, remedy=_REMEDY), []
    file_kind.check(_file(folder, PICKLED), PICKLED)
    document, _ = pickled.read(folder / PICKLED)
    table = document if isinstance(document, dict) else {}
    found = {str(name): tensor for name, tensor in table.items() if isinstance(tensor, Tensor)}
    pickled.check_size(found, folder / PICKLED)
    bad = tensors.not_finite(found)
    if bad is not None:
        raise Corrupt(f"tensor {bad!r} holds NaN or an infinity", field=PICKLED, remedy=_REMEDY)
    return found, [f"{PICKLED} was read, its code was not run; safe_serialization=True saves {WEIGHTS}"]


def _file(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{folder} has no {name}", field="path", remedy=_instead(folder)) from None
    except OSError as error:
        raise InvalidInput(f"{name} cannot be read ({error.strerror})", field="path") from error


def _instead(folder: Path) -> str:
    """What to give instead of a folder that lacks a file."""
    named = sorted(str(config.parent) for config in folder.glob(f"*/{CONFIG}"))
    if named:
        return f"PEFT saves a named adapter in a folder of its own: write {' or '.join(named[:3])}"
    if (folder / "config.json").is_file() and any((folder / name).is_file() for name in hub_folder.WEIGHTS):
        return "it holds a whole model: --format timm, or `corolla backbones import`"
    return "save it with model.save_pretrained(folder)"


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
    others = [m for m in config.modules_to_save or [] if m.rpartition(".")[2] not in HEADS]
    if others:
        raise _refusal(f"modules_to_save {others[0]!r}", "only a head can travel")
    for name in sorted(raw.keys() - _INERT):
        if raw[name]:  # what a later PEFT adds is refused unless it is off
            raise _refusal(name, f"it is {str(raw[name])[:60]!r} and not off")


def _refusal(what: str, why: str) -> Unsupported:
    return Unsupported(
        f"{what} cannot be represented exactly: {why}",
        field=CONFIG,
        remedy="train a plain LoRA, or merge it in PEFT and import the merged model with --format timm",
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
