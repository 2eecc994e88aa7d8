"""The facts of timm's plain ViTs by name, read from plain_vits.json, so that nothing has to import timm.

`make docs` writes the list from timm: every architecture that `Facts` describes exactly. A ViT that is not
listed, or that has other options than depth, width and heads, is read from timm (`petl_vit.timm_vit`). No
torch.
"""

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from petl_vit.backbone import BackboneConfig
from petl_vit.facts import Facts

LIST = Path(__file__).with_name("plain_vits.json")


class Listed(BaseModel):
    """Architectures of timm that have the same facts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    facts: Facts


class List(BaseModel):
    """All listed ViTs, and the version of timm that they were read from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    timm: str
    vits: tuple[Listed, ...]

    def text(self) -> str:
        """The file's text: a line for each of `vits`."""
        rows = ",\n".join(row.model_dump_json(exclude_defaults=True) for row in self.vits)
        return f'{{"timm":"{self.timm}","vits":[\n{rows}\n]}}\n'


def named(architecture: str) -> Facts | None:
    """The listed facts of an architecture without options; None where it is not listed."""
    return _listed().get(architecture.partition(".")[0])


def names() -> tuple[str, ...]:
    """All listed architectures, in timm's order."""
    return tuple(_listed())


def find(config: BackboneConfig) -> Facts | None:
    """The listed facts of a config's architecture; None where it has to be read from timm."""
    options = dict(config.options)
    facts = named(config.architecture)
    if facts is not None and options.get("global_pool") == facts.pool:
        del options["global_pool"]
    elif facts is not None and options.get("global_pool") == "avg":
        facts = facts.mean_pooled()
        del options["global_pool"]
    return None if facts is None else _resized(facts, options)


def _resized(facts: Facts, options: dict[str, bool | int | float | str | None]) -> Facts | None:
    """The same ViT of another depth, width or number of heads; None where there are other options."""
    defaults = {"depth": facts.depth, "embed_dim": facts.width, "num_heads": facts.heads}
    if not options.keys() <= defaults.keys():
        return None
    counts = {name: value for name, value in options.items() if type(value) is int and value > 0}
    depth, width, heads = (defaults | counts).values()
    if len(counts) < len(options) or width % heads or (facts.rotary and width // heads % 4):
        return None
    ratio, rest = divmod(facts.hidden, facts.width)
    aligned = rest != 0 or "gate_value" in facts.layouts
    if aligned and width != facts.width:  # timm would round the hidden width
        return None
    hidden = ratio * width if rest == 0 else facts.hidden
    changes: dict[str, Any] = {"depth": depth, "width": width, "heads": heads, "hidden": hidden}
    pool = facts.attention_pool
    if pool is not None and pool.prefix and width != facts.width:
        return None
    if pool is not None and not pool.prefix:  # a Vision Transformer's is as wide as its blocks
        changes["attention_pool"] = pool.model_copy(update={"heads": heads, "hidden": hidden})
    return facts.model_copy(update=changes)


@cache
def _listed() -> dict[str, Facts]:
    rows = List.model_validate_json(LIST.read_bytes()).vits
    return {name: row.facts for row in rows for name in row.names}
