"""Where the Vision Transformer is in a table of tensors: what its names begin with, and which of several.

DistributedDataParallel, torch.compile, Lightning, DINO and others put something in front of every name, and a
checkpoint's containers (`state_dict`, `teacher`) are read as such prefixes too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from model_store.sources.families import registry
from petl_vit.errors import InvalidInput, NotFound, near

_ANCHORS = (*registry.ANCHORS, "patch_embed.proj.weight")
_FURTHER = ("embeddings.cls_token", "blocks.0.attn.qkv.weight")  # where a file is not whole
_AVERAGED = frozenset(
    [
        "ema",
        "ema_state_dict",
        "model_ema",
        "model_ema_state_dict",
        "momentum_encoder",
        "state_dict_ema",
        "target_encoder",
        "teacher",
    ]
)
"""Containers of weights that are an exponential moving average of those that were trained."""
_CONTAINERS = ("state_dict", "model_state_dict", "model", *sorted(_AVERAGED))
_HEADS = ("head", "classifier", "fc")
_LISTED = 4


@dataclass(frozen=True, kw_only=True)
class Unwrapped:
    """The tensors of one ViT.

    Attributes:
        prefix: What was taken off their names.
        tensors: Without it.
        head: A linear head of another name, or beside the ViT, as `head.weight` and `head.bias`; else empty.
        notes: What was chosen or left out, for the user.
        has_vit: Whether there is a ViT, as far as names tell.
    """

    prefix: str
    tensors: dict[str, Tensor]
    head: dict[str, Tensor]
    notes: tuple[str, ...]
    has_vit: bool


def unwrap(
    tensors: Mapping[str, Tensor], *, what: str, prefix: str | None = None, ema: bool | None = None
) -> Unwrapped:
    """The one ViT in a table of tensors.

    Args:
        what: The file, for errors.
        prefix: What the names begin with; None looks for it.
        ema: Whether averaged weights are meant where the file has both kinds; None takes them, as timm does.

    Raises:
        InvalidInput: There are several; names their prefixes.
        NotFound: No name begins with `prefix`.
    """
    known = _prefixes(tensors, _ANCHORS) or _prefixes(tensors, _FURTHER)
    chosen, notes = _given(tensors, prefix, known) if prefix is not None else _chosen(known, what, ema)
    inside = {n.removeprefix(chosen): t for n, t in tensors.items() if n.startswith(chosen)}
    others = {n: t for n, t in tensors.items() if not n.startswith(chosen)}
    head = {} if inside.keys() & {"head.weight", "head.bias"} else _head_of(chosen, tensors)
    inside = {n: t for n, t in inside.items() if chosen + n not in head.values()}
    left_out = [n for n in others if n not in head.values()]
    return Unwrapped(
        prefix=chosen,
        tensors=inside,
        head={name: tensors[full] for name, full in head.items()},
        notes=(*notes, *_told(chosen, len(inside), left_out)),
        has_vit=bool(known),
    )


def _head_of(prefix: str, names: Mapping[str, Tensor]) -> dict[str, str]:
    """A linear head of another name or beside the ViT: its names in the file by ours; else nothing."""
    parts = prefix.split(".")
    for depth in reversed(range(len(parts))):
        for head in _HEADS:
            beside = ".".join([*parts[:depth], head])
            found = {f"head.{kind}": f"{beside}.{kind}" for kind in ("weight", "bias")}
            if all(name in names for name in found.values()):
                return found
    return {}


def listed(names: Iterable[str]) -> str:
    """Some of many names."""
    known = sorted(names)
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return ", ".join(known[:_LISTED]) + more


def _prefixes(names: Iterable[str], anchors: Sequence[str]) -> list[str]:
    """What stands before an anchor, in order of appearance."""
    found = [
        name.removesuffix(anchor)
        for name in names
        for anchor in anchors
        if name == anchor or name.endswith(f".{anchor}")
    ]
    return list(dict.fromkeys(found))


def _given(names: Iterable[str], prefix: str, known: Sequence[str]) -> tuple[str, list[str]]:
    begin = prefix if not prefix or prefix.endswith(".") else f"{prefix}."
    inside = [other for other in known if other.endswith(f".{begin}") and begin]
    if begin not in known and len(inside) == 1:  # without the container
        return inside[0], []
    if not any(name.startswith(begin) for name in names):
        choices = ", ".join(map(repr, known))
        remedy = near(begin, known) or (f"use one of {choices}" if known else "leave it out")
        raise NotFound(f"no tensor's name begins with {begin!r}", field="prefix", remedy=remedy)
    return begin, []


def _chosen(known: Sequence[str], what: str, ema: bool | None) -> tuple[str, list[str]]:
    averaged = [prefix for prefix in known if _AVERAGED & set(prefix.split("."))]
    plain = [prefix for prefix in known if prefix not in averaged]
    if len(known) > 1 and len(averaged) == 1 and len(plain) == 1:
        chosen, other = (plain[0], averaged[0]) if ema is False else (averaged[0], plain[0])
        kind, flag = ("plain", "--ema") if ema is False else ("averaged (EMA)", "--no-ema")
        return chosen, [f"it holds two models: took the {kind} weights, not {other!r}; {flag} takes those"]
    if len(known) > 1:
        choices = ", ".join(repr(prefix) for prefix in known)
        raise InvalidInput(
            f"it holds {len(known)} Vision Transformers, whose names begin with {choices}",
            field=what,
            remedy=f"add --prefix with one of them, such as --prefix {known[-1]}",
        )
    if known and ema is not None and not (averaged if ema else plain):
        kind = "averaged (EMA)" if ema else "plain"
        raise InvalidInput(f"it holds no {kind} weights", field="ema", remedy="leave the flag out")
    return (known[0] if known else ""), []


def _told(prefix: str, inside: int, others: Iterable[str]) -> list[str]:
    """What was taken off or left out; not that the one container of a file was opened."""
    container = next((f"{name}." for name in _CONTAINERS if prefix.startswith(f"{name}.")), "")
    shown = prefix.removeprefix(container)
    beside = [name for name in others if name.startswith(container)]
    if not shown:
        return []
    if not beside:
        return [f"the prefix {shown!r} was taken off all names"]
    count = f"{len(beside)} other{'s'[: len(beside) != 1]}"
    return [f"took the {inside} tensors under {shown!r}; left out {count}: {listed(beside)}"]
