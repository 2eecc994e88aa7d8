"""A type of adapter of PEFT as we read it: which settings it has, and what it changes at a module.

Each family of types is a file that lists them in its `TYPES`; `read` is what all have in common: settings
that mean something, tensors in float64 beside the frozen weights, and biases that were trained along.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from model_store.interchange import peft_edits, peft_names
from model_store.interchange.foreign import Foreign
from model_store.interchange.peft_change import Change, Module, Scale, contradiction
from model_store.interchange.peft_folder import Tuned, refusal
from model_store.interchange.peft_names import CONFIG, HEADS, Adapted, Site
from petl_vit.errors import Unsupported

# Says where layers are, how it was trained or where it came from; the tensors say what there is.
_INERT = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "ensure_weight_tying",
        "exclude_modules",
        "inference_mode",
        "init_weights",
        "layers_pattern",
        "layers_to_transform",
        "megatron_core",
        "modules_to_save",
        "module_dropout",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    ]
)
_PATCHES = "patch_embed.proj"
_PATCH_BIASES = (
    "patch_embed.proj.bias",
    "embeddings.patch_embeddings.projection.bias",
    "embeddings.patch_embeddings.bias",
    "embeddings.patch_embedding.bias",
)
"""timm's name of the patch convolution's bias, and those of transformers."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All of a folder, for what one module's change may depend on.

    Attributes:
        modules: Every module with tensors of the type, in the order of the file's names.
        shared: The tensors that are at no module, in float64.
    """

    config: Mapping[str, Any]
    modules: tuple[Module, ...]
    shared: Mapping[str, Tensor]

    def number(self, name: str, default: float | None = None) -> float:
        """A setting that is a number.

        Raises:
            Corrupt: It is missing or something else.
        """
        value = self.config.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise contradiction(f"{name}: {str(value)[:40]!r} is not a number", CONFIG)
        return value

    def at(self, module: Module, name: str, patterns: str) -> float:
        """A number that a table of patterns may change for a module.

        Raises:
            Corrupt: It is not a number, or a pattern cannot be read.
        """
        table = self.config.get(patterns) or {}
        for pattern, value in table.items() if isinstance(table, dict) else ():
            try:
                matches = re.match(rf"(.*\.)?({pattern})$", module.path)
            except re.error as error:
                raise contradiction(f"{pattern!r} is not a pattern ({error})", CONFIG) from error
            if matches and isinstance(value, int | float):
                return value
        return self.number(name)


@dataclass(frozen=True, kw_only=True)
class Type:
    """One type.

    Attributes:
        settings: The settings that mean something to `changes`, or nothing to the trained model; what is
            neither among them nor inert has to be off.
        kinds: The tensors that a module has, by the beginnings of their kinds.
        changes: What it changes at a module.
        shared: The beginnings of the names of tensors that are at no module.
    """

    title: str
    settings: frozenset[str]
    kinds: tuple[str, ...]
    changes: Callable[[Module, Reading], Sequence[Change]]
    shared: tuple[str, ...] = ()

    def read(self, tuned: Tuned) -> Foreign:
        """The adapter of a folder.

        Raises:
            Unsupported: It cannot be represented exactly; names what.
            Corrupt: It is not what PEFT writes, or not of this backbone.
        """
        return peft_edits.foreign(tuned, self.title, self.changed(tuned))

    def changed(self, tuned: Tuned) -> list[tuple[Module, Sequence[Change]]]:
        """What the adapter of a folder changes, by module, in float64."""
        config = tuned.folder.config
        check_settings(config, self.settings)
        adapted, others = _with_patches(tuned)
        modules = [_module(one, tuned) for one in adapted]
        of_type = tuple(module for module in modules if any(k.startswith(self.kinds) for k in module.tensors))
        reading = Reading(config=config, modules=of_type, shared=others)
        for name in others:
            if not name.startswith(self.shared or ("\0",)):
                raise peft_names.foreign(name)
        return [(module, self._of(module, reading)) for module in modules]

    def _of(self, module: Module, reading: Reading) -> list[Change]:
        kinds = {kind for kind in module.tensors if kind.startswith(self.kinds)}
        unknown = module.tensors.keys() - kinds - {"bias"}
        if unknown:
            raise peft_names.foreign(f"{module.path}.{min(unknown)}")
        changes = list(self.changes(module, reading)) if kinds else []
        if "bias" in module.tensors:
            changes.append(Scale(shift=module.get("bias", module.out) - module.bias))
        return changes


def a_type(
    title: str,
    kinds: str,
    settings: str,
    changes: "Callable[[Module, Reading], Sequence[Change]]",
    shared: str = "",
) -> Type:
    """A type; names are separated by spaces."""
    return Type(
        title=title,
        settings=frozenset(settings.split()),
        kinds=tuple(kinds.split()),
        changes=changes,
        shared=tuple(shared.split()),
    )


def check_settings(config: Mapping[str, Any], known: frozenset[str]) -> None:
    """Refuse every setting that changes what the tensors mean, and is not known to.

    Raises:
        Unsupported: Names the setting.
    """
    others = [m for m in config.get("modules_to_save") or [] if str(m).rpartition(".")[2] not in HEADS]
    if others:
        raise refusal(f"modules_to_save {others[0]!r}", "only a head can travel")
    for name in sorted(config.keys() - _INERT - known):
        if config[name]:
            raise refusal(name, f"it is {str(config[name])[:60]!r} and not off")


def _with_patches(tuned: Tuned) -> tuple[list[Adapted], dict[str, Tensor]]:
    """The adapted modules, the patch embedding's bias among them; and the shared tensors in float64."""
    adapted, others = list(tuned.adapted), {n: t.double() for n, t in tuned.others.items()}
    for name in list(others):
        if name.endswith(_PATCH_BIASES):
            site = Site(tuned.adapted[0].site.prefix, _PATCHES)
            adapted.append(Adapted(path=_PATCHES, site=site, tensors={"bias": others.pop(name)}))
        elif name.endswith((".original_module.bias", "modules_to_save.bias")) or name in (
            f"{head}.bias" for head in HEADS
        ):
            others.pop(name)  # bias="all" saves the head's once more
    return adapted, others


def _module(adapted: Adapted, tuned: Tuned) -> Module:
    """A module with its rows of the frozen weight."""
    site = adapted.site
    weight = tuned.frozen.get(f"{site.module}.weight")
    if weight is None:
        raise Unsupported(
            f"it has {site.module}, and {tuned.arch.name} has no such part, of {tuned.arch.depth} blocks",
            field="task",
            remedy="import it under a task on its own backbone",
        )
    bias = tuned.frozen.get(f"{site.module}.bias")
    weight = weight.double().flatten(1) if weight.dim() == 4 else weight.double()
    bias = weight.new_zeros(len(weight)) if bias is None else bias.double()
    if site.part is not None:
        height = len(weight) // site.parts
        rows = slice(site.part * height, (site.part + 1) * height)
        weight, bias = weight[rows], bias[rows]
    tensors = {kind: tensor.double() for kind, tensor in adapted.tensors.items()}
    return Module(path=adapted.path, site=site, tensors=tensors, weight=weight, bias=bias)
