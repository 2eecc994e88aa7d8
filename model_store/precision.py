"""How precisely the backbone runs: fp32, or bf16 where the hardware has it and the answers stay the same.

bf16 halves the time and the memory of the backbone on CPUs with AVX-512-bf16 or AMX and on GPUs since
Ampere; without them it works and is slow. Before a server runs in it, the logits of every task's base head
and of every member of a named route are compared with fp32 on a few images.
"""

import logging
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from model_store.loading import Loader, models
from model_store.manifest import BackboneRecord
from model_store.resolution import ResolvedRoute
from model_store.store import Store
from petl_vit.batch import Batch, Row
from petl_vit.errors import CorollaError, InvalidInput
from petl_vit.precision import Precision, has_bf16

_log = logging.getLogger(__name__)

TOLERANCE = 5e-2
"""Largest difference of any logit, relative to the largest logit, over the probe images."""

_PROBES = 4


def checked_loader(
    setting: Precision,
    device: torch.device,
    store: Store,
    record: BackboneRecord,
    routes: Iterable[ResolvedRoute],
) -> tuple[Precision, Loader]:
    """What the backbone runs in, and a loader of that.

    Args:
        routes: Their members' logits are compared; not gone through where fp32 is taken anyway.

    Raises:
        InvalidInput: bf16 is asked for and changes the answers too much; `auto` then is fp32.
    """
    exact = Loader(store, record, device=device)
    if setting is Precision.FP32 or (setting is Precision.AUTO and not has_bf16(device)):
        return Precision.FP32, exact
    fast = Loader(store, record, device=device, precision=Precision.BF16)
    compared = ((_difference(route, exact, fast), str(route)) for route in routes)
    found, route = max(compared, default=(0.0, "nothing"))
    _log.info("bf16 changes logits by at most %.2g of the largest one (of %s)", found, route)
    try:
        check(found, route)
    except InvalidInput as error:
        if setting is Precision.BF16:
            raise
        _log.warning("%s", error)
        return Precision.FP32, exact
    return Precision.BF16, fast


def probes(size: int) -> Tensor:
    """A few smooth random images, [n, 3, S, S], normalised as a backbone expects them."""
    coarse = torch.randn(_PROBES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")


def check(found: float, route: str) -> None:
    """Refuses a precision that changes the answers.

    Args:
        found: The largest difference of a logit, relative to the largest one, of a route.

    Raises:
        InvalidInput: The difference is beyond `TOLERANCE`, or not a number.
    """
    if not found <= TOLERANCE:
        raise InvalidInput(
            f"bf16 changes logits of {route} by {found:.1%} of the largest one; accepted are {TOLERANCE:.0%}",
            field="precision",
            remedy="start the server with --precision fp32",
        )


def _difference(route: ResolvedRoute, exact: Loader, fast: Loader) -> float:
    """The largest difference of the logits of a route's members, relative to the largest logit.

    Of what is damaged it is 0: it answers nothing, and must not keep the others from answering.
    """
    worst = 0.0
    try:
        pairs = list(zip(_logits(route, exact), _logits(route, fast), strict=True))
    except CorollaError as error:
        _log.warning("route %s is not compared with fp32: %s", route, error)
        return worst
    for z, other in pairs:
        found = float((z - other).abs().max() / z.abs().max().clamp_min(1e-12))
        worst = max(worst, found if math.isfinite(found) else math.inf)
    return worst


def _logits(route: ResolvedRoute, loader: Loader) -> list[Tensor]:
    """[n, C] of each member, n probe images."""
    size = route.task.spec.preprocess.image_size
    vit = loader.vit(size)
    members = models(route.members, {term.digest: loader.adapter(term) for term in route.terms()})
    images = probes(size).to(device=vit.device, dtype=vit.dtype)
    rows = [Row(image=i, model=model) for model in members for i in range(len(images))]
    found = Batch(vit).logits(images, rows)
    return [
        torch.stack(found[start : start + len(images)]).double().cpu()
        for start in range(0, len(found), len(images))
    ]
