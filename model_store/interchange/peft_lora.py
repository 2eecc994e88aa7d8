"""LoRA of Hugging Face PEFT, and the variants of it that are one product of two matrices.

PEFT's lora_A [r, in] and lora_B [out, r] give y += scaling * lora_B(lora_A(x)), scaling = lora_alpha / r, or
lora_alpha / sqrt(r) with rsLoRA; ours are A [in, r] and B [r, out] with y += x A B. The scaling goes into B.
LoRAs of blocks of a linear's rows (queries, keys and values apart) become one of the whole linear, of their
ranks' sum: the A side by side, each B in its block, which is exact. Source: peft.tuners.lora (0.21).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from model_store.interchange import peft_checks, peft_names
from model_store.interchange.foreign import Foreign
from model_store.interchange.peft_folder import Tuned, refusal
from model_store.interchange.peft_names import CONFIG, HEADS, SITES, WEIGHTS, Adapted
from petl_vit.architecture import Architecture, Shapes
from petl_vit.errors import Corrupt, InvalidInput, Unsupported
from petl_vit.methods.lora import LoRA

_REMEDY = "save it again with PEFT"
Pair = tuple[Tensor, Tensor]
"""lora_A [r, in] and lora_B [out, r], the scaling in it."""

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


def read(tuned: Tuned) -> Foreign:
    """The LoRA of a folder, for the method lora.

    Raises:
        Unsupported: It cannot be represented exactly; names what.
        Corrupt: It is not what PEFT writes, or its shapes are not the backbone's.
    """
    config = _parsed(tuned.folder.config)
    _check_meaning(tuned.folder.config, config)
    for name in tuned.others:
        raise peft_names.foreign(name)
    parts: dict[str, list[tuple[Adapted, Pair]]] = {}
    for adapted in tuned.adapted:
        parts.setdefault(adapted.site.module, []).append((adapted, _pair(adapted, config)))
    pairs = {module: _whole(of_one) for module, of_one in parts.items()}
    notes = []
    if any(adapted.site.part is not None for adapted in tuned.adapted):
        notes.append("LoRAs of queries, keys and values, or of gate and value, became one of both, exactly")
    method, found, absent = _ours(pairs, config.lora_dropout, tuned.arch)
    if peft_checks.untrained(b for _, b in pairs.values()):
        notes.append("every lora_B is zero, so it changes nothing: it was saved before it was trained")
    if absent:
        notes.append(f"not adapted, so stored as zeros: {', '.join(absent)}")
    return Foreign(method=method, tensors=found, source=tuned.source, notes=tuple(notes))


def _parsed(raw: Mapping[str, Any]) -> _Config:
    try:
        return _Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise Corrupt(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", field=CONFIG) from error


def _pair(adapted: Adapted, config: _Config) -> Pair:
    """The two matrices of a module."""
    kinds, path = adapted.tensors, adapted.path
    further = sorted(kinds.keys() - {"lora_A", "lora_B"})
    if further:
        raise peft_names.foreign(f"{path}.{further[0]}")
    if kinds.keys() != {"lora_A", "lora_B"} or any(t.dim() != 2 for t in kinds.values()):
        raise Corrupt(f"{path} has no pair of lora_A and lora_B matrices", field=WEIGHTS)
    a, b = kinds["lora_A"].float(), kinds["lora_B"].float()
    if a.shape[0] != b.shape[1]:
        raise Corrupt(f"{path}: ranks {a.shape[0]} and {b.shape[1]} differ", field=WEIGHTS, remedy=_REMEDY)
    if not len(a):
        raise Corrupt(
            f"{path} has rank 0, so it changes nothing", field=WEIGHTS, remedy="train it again, r >= 1"
        )
    return a, config.scaling(path, a.shape[0]) * b


def _whole(parts: list[tuple[Adapted, Pair]]) -> Pair:
    """The LoRA of a linear, of those of all of it or of blocks of its rows."""
    of = [adapted.site.part for adapted, _ in parts]
    if len(set(of)) < len(of) or (None in of and len(of) > 1):
        names = " and ".join(adapted.path for adapted, _ in parts[:2])
        raise Unsupported(f"{names} are the same linear", field=WEIGHTS, remedy="save an adapter of one ViT")
    if None in of:
        return parts[0][1]
    height = len(parts[0][1][1])
    a = torch.cat([a for _, (a, _) in parts])
    b = a.new_zeros(parts[0][0].site.parts * height, len(a))
    column = 0
    for (adapted, (_, block)), part in zip(parts, of, strict=True):
        if part is None or len(block) != height:
            problem = f"{adapted.path} gives {len(block)} numbers, and {parts[0][0].path} {height}"
            raise Corrupt(problem, field=WEIGHTS, remedy=_REMEDY)
        b[part * height : (part + 1) * height, column : column + block.shape[1]] = block
        column += block.shape[1]
    return a, b


def _ours(
    pairs: Mapping[str, Pair], dropout: float, arch: Architecture
) -> tuple[LoRA, dict[str, Tensor], list[str]]:
    """The method, its tensors, and what was filled with zeros."""
    used = {module: module.split(".", 2)[-1] for module in pairs}
    foreign = [module for module, site in used.items() if site not in SITES.values()]
    if foreign:
        raise peft_names.foreign(foreign[0])
    targets = [target for target, site in SITES.items() if site in used.values()]
    rank = max(a.shape[0] for a, _ in pairs.values())
    method = LoRA.configure({"rank": rank, "dropout": dropout, "targets": targets})
    shapes, found, absent = method.shapes(arch), dict[str, Tensor](), []
    for module, (a, b) in pairs.items():
        _check_widths(module, a, b, shapes, arch)
    for site in dict.fromkeys(name.rpartition(".")[0] for name in shapes):
        if site not in pairs:
            absent.append(site)
            found |= {n: torch.zeros(shapes[n]) for n in (f"{site}.lora_a", f"{site}.lora_b")}
            continue
        a, b = pairs[site]
        missing = rank - a.shape[0]  # further columns of zeros leave the product as it is
        found[f"{site}.lora_a"] = torch.nn.functional.pad(a, (0, 0, 0, missing)).T.contiguous()
        found[f"{site}.lora_b"] = torch.nn.functional.pad(b, (0, missing)).T.contiguous()
    return method, found, absent


def _check_widths(module: str, a: Tensor, b: Tensor, shapes: Shapes, arch: Architecture) -> None:
    """Refuses a LoRA of another ViT than the backbone."""
    remedy = "import it under a task on the backbone that it was trained over"
    if f"{module}.lora_a" not in shapes:
        problem = f"it has {module}, and {arch.name} has {arch.depth} blocks"
        raise Unsupported(problem, field="task", remedy=remedy)
    into, out = shapes[f"{module}.lora_a"][0], shapes[f"{module}.lora_b"][1]
    if (a.shape[1], b.shape[0]) != (into, out):
        raise InvalidInput(
            f"its {module} takes {a.shape[1]} and gives {b.shape[0]} numbers, and that of the task's "
            f"backbone ({arch.name}) takes {into} and gives {out}",
            field="task",
            remedy=remedy,
        )


def _check_meaning(raw: Mapping[str, Any], config: _Config) -> None:
    """Refuses every setting that changes what the tensors mean."""
    if raw.get("use_dora"):
        raise refusal("use_dora", "DoRA rescales the whole weight by a norm of it")
    if config.bias != "none":
        raise refusal(f"bias {config.bias!r}", "it trains biases too")
    if config.init_lora_weights not in _STARTS and config.init_lora_weights is not None:
        raise refusal(
            f"init_lora_weights {config.init_lora_weights!r}", "it may start from changed frozen weights"
        )
    others = [m for m in config.modules_to_save or [] if m.rpartition(".")[2] not in HEADS]
    if others:
        raise refusal(f"modules_to_save {others[0]!r}", "only a head can travel")
    for name in sorted(raw.keys() - _INERT):
        if raw[name]:  # what a later PEFT adds is refused unless it is off
            raise refusal(name, f"it is {str(raw[name])[:60]!r} and not off")


def _pattern(patterns: Mapping[str, float] | Mapping[str, int], module: str) -> str:
    """The first pattern that PEFT would match with a module, else the module itself."""
    for pattern in patterns:
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return pattern
        except re.error as error:
            raise Corrupt(f"{pattern!r} is not a pattern ({error})", field=CONFIG) from error
    return module
