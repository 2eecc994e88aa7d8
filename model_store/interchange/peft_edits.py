"""Edits of an adapter of PEFT, from what it changes at each module.

Blocks of rows of a linear (queries, keys and values apart) become changes of the whole one: products lie side
by side, each in its rows; vectors are put together; turned inputs keep to their outputs. A product that has
as many numbers as the weight is stored as the changed weight.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from model_store.format import tensors as formats
from model_store.interchange.foreign import Foreign
from model_store.interchange.peft_change import Change, Module, Norm, Product, Scale, Turn, Whole
from model_store.interchange.peft_folder import Tuned
from model_store.interchange.peft_names import MERGE, WEIGHTS
from petl_vit.errors import Corrupt, Unsupported
from petl_vit.methods.imported import Imported

Changed = tuple[Module, Sequence[Change]]
_Edit = tuple[dict[str, Any], dict[str, Tensor]]
"""An edit's part of the config, and its tensors."""


def foreign(tuned: Tuned, title: str, changed: Sequence[Changed]) -> Foreign:
    """The adapter with these changes.

    Raises:
        Corrupt: A change is not finite.
    """
    sites: dict[str, list[tuple[Module, Change]]] = {}
    for module, changes in changed:
        sites.setdefault(module.site.module, []).extend((module, change) for change in changes)
    edits = [edit for site, own in sites.items() for edit in _edits(site, own, tuned.frozen)]
    tensors = {f"{i}.{n}": t.float().contiguous() for i, (_, own) in enumerate(edits) for n, t in own.items()}
    bad = formats.not_finite(tensors)
    if bad is not None:
        site = edits[int(bad.partition(".")[0])][0]["site"]
        raise Corrupt(f"its change of {site} is not finite", field=WEIGHTS, remedy="train it again")
    method = Imported.configure({"source": title, "parts": [spec for spec, _ in edits]})
    return Foreign(method=method, tensors=tensors, source=tuned.source, notes=_costs(title, edits))


def _edits(site: str, changes: list[tuple[Module, Change]], frozen: Mapping[str, Tensor]) -> list[_Edit]:
    """The edits at one site."""
    weight = frozen[f"{site}.weight"]
    norms = [change for _, change in changes if isinstance(change, Norm)]
    if norms:
        (change,) = norms
        return [({"edit": "norm", "site": site}, {"weight": change.weight, "bias": change.bias})]
    vectors = [(m, c) for m, c in changes if isinstance(c, Scale)]
    products = [(m, c) for m, c in changes if isinstance(c, Product) and c.b.numel()]
    no_site = site.startswith("attn_pool.")  # its linears are no sites of the forward
    if no_site or any(isinstance(c, Whole) for _, c in changes) or _is_wide(products, weight):
        return _dense(site, changes, weight, frozen.get(f"{site}.bias"))
    found = [_low_rank(site, products, weight)] if products else []
    found += [_turned(site, m, c) for m, c in changes if isinstance(c, Turn)]
    return found + ([_affine(site, vectors, len(weight))] if vectors else [])


def _is_wide(products: list[tuple[Module, Product]], weight: Tensor) -> bool:
    """Whether products have at least as many numbers as the weight, and are not faster for it."""
    if not products:
        return False
    low_rank = _joined(products, weight)
    return low_rank.a.numel() + low_rank.b.numel() >= weight.numel()


def _rows(module: Module) -> slice:
    """The module's rows of our linear."""
    if module.site.part is None:
        return slice(0, module.out)
    return slice(module.site.part * module.out, (module.site.part + 1) * module.out)


def _joined(products: list[tuple[Module, Product]], weight: Tensor) -> Product:
    if len(products) == 1 and products[0][0].site.part is None:
        return products[0][1]
    plain = [(module, product.plain()) for module, product in products]
    b = torch.zeros(sum(len(p.b) for _, p in plain), len(weight), dtype=torch.float64)
    done = 0
    for module, one in plain:
        b[done : done + len(one.b), _rows(module)] = one.b
        done += len(one.b)
    return Product(a=torch.cat([p.a for _, p in plain], dim=1), b=b)


def _low_rank(site: str, products: list[tuple[Module, Product]], weight: Tensor) -> _Edit:
    joined = _joined(products, weight)
    spec = {"edit": "low_rank", "site": site, "rank": len(joined.b), "parts": joined.parts}
    return spec, {"a": joined.a, "b": joined.b}


def _affine(site: str, vectors: list[tuple[Module, Scale]], width: int) -> _Edit:
    scale, shift = torch.ones(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for module, change in vectors:
        if change.scale is not None:
            scale[_rows(module)] += change.scale - 1
        if change.shift is not None:
            shift[_rows(module)] += change.shift
    there = {"scale": any(c.scale is not None for _, c in vectors)}
    there["shift"] = any(c.shift is not None for _, c in vectors)
    spec = {"edit": "affine", "site": site} | there
    return spec, {name: t for name, t in (("scale", scale), ("shift", shift)) if there[name]}


def _turned(site: str, module: Module, turn: Turn) -> _Edit:
    rows = _rows(module)
    spec: dict[str, Any] = {"edit": "input", "site": site, "scale": turn.scale is not None}
    if module.site.part is not None:
        spec["outputs"] = (rows.start, rows.stop)
    if turn.blocks is not None:
        spec["block"] = turn.blocks.shape[-1]
    named = {"diagonal": turn.diagonal, "blocks": turn.blocks, "scale": turn.scale}
    return spec, {name: tensor for name, tensor in named.items() if tensor is not None}


def _dense(
    site: str, changes: list[tuple[Module, Change]], weight: Tensor, bias: Tensor | None
) -> list[_Edit]:
    """The changed weight, and the change of the bias beside it."""
    whole = weight.to(torch.float64, copy=True)
    shift = torch.zeros(len(weight), dtype=torch.float64)
    for module, change in changes:
        assert not isinstance(change, Norm)
        rows = _rows(module)
        whole[rows] += change.of_weight(module.weight)
        if isinstance(change, Scale):
            moved = None if change.scale is None else (change.scale - 1) * module.bias
            shift[rows] += sum((v for v in (moved, change.shift) if v is not None), start=shift.new_zeros(()))
    found: list[_Edit] = [({"edit": "dense", "site": site}, {"weight": whole})]
    if shift.any() and site.startswith("attn_pool."):
        raise Unsupported(f"it changes the bias of {site}, which is no site", field=WEIGHTS, remedy=MERGE)
    if shift.any():
        found.append(({"edit": "affine", "site": site}, {"shift": shift}))
    return found


def _costs(title: str, edits: list[_Edit]) -> tuple[str, ...]:
    """What the user should know of how the edits run."""
    kinds = [spec["edit"] for spec, _ in edits]
    used = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    notes = [f"its {title} became edits that have the same change: {used}"]
    if "dense" in kinds:
        nbytes = sum(4 * t.numel() for spec, own in edits if spec["edit"] == "dense" for t in own.values())
        notes.append(
            f"{kinds.count('dense')} linears are kept as whole weights, {nbytes / 1e6:,.1f} MB, and its rows "
            "share no product with others there"
        )
    if "input" in kinds:
        notes.append(f"{kinds.count('input')} input edits multiply its rows by the frozen weight once more")
    return tuple(notes)
