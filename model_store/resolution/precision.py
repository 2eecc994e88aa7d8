"""How precisely the backbone runs: fp32, or bf16 where the hardware has it and the answers stay the same.

bf16 halves the time and the memory of the backbone on CPUs with AVX-512-bf16 or AMX and on GPUs since
Ampere; elsewhere it works and is slow. Before a backbone answers in bf16, its logits are compared with fp32
on a few images: a server compares every task's base head and every member of a named route, a measurement
compares what it measures.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from model_store.format.records import BackboneRecord
from model_store.resolution.loading import Loader, member_key
from model_store.resolution.versions import Member, ResolvedRoute
from model_store.store import Store
from petl_vit.batch import Batch, Model
from petl_vit.device import has_bf16
from petl_vit.errors import CorollaError, InvalidInput
from petl_vit.logits import logits_over
from petl_vit.precision import Precision

_log = logging.getLogger(__name__)

TOLERANCE = 5e-2
"""Largest difference of any logit, relative to the largest logit, over the probe images."""

_PROBES = 4


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is compared: some models, built by a loader."""

    name: str
    image_size: int
    models: Callable[[Loader], Sequence[Model]]


def checked_loader(
    setting: Precision,
    device: torch.device,
    store: Store,
    record: BackboneRecord,
    routes: Iterable[ResolvedRoute],
) -> tuple[Precision, Loader]:
    """The precision that the backbone runs in, and a loader of that precision.

    Args:
        routes: Their members' logits are compared; not iterated if fp32 is chosen anyway.

    Raises:
        InvalidInput: bf16 is asked for and changes the answers too much; `auto` then is fp32.
    """
    members = (member for route in routes for member in route.members)
    loader = checked(setting, Loader(store, record, device=device), subjects(members))
    return loader.precision, loader


def checked(
    setting: Precision,
    exact: Loader,
    subjects: Iterable[Subject],
    note: Callable[[str], None] = _log.warning,
) -> Loader:
    """A loader of the precision that a setting leads to, as `checked_loader` gives for routes.

    Args:
        exact: A loader of fp32 on the device that will compute; returned if fp32 is chosen.
        note: Called with a message when `auto` falls back to fp32.

    Raises:
        InvalidInput: bf16 is asked for and changes the answers too much.
    """
    if setting is Precision.FP32 or (setting is Precision.AUTO and not has_bf16(exact.device)):
        return exact
    fast = Loader(exact.store, exact.record, device=exact.device, precision=Precision.BF16)
    compared = ((_difference_if_sound(subject, exact, fast), subject.name) for subject in subjects)
    largest, name = max(compared, default=(0.0, "nothing"))
    _log.info("bf16 changes logits by at most %.2g of the largest one (of %s)", largest, name)
    try:
        check(largest, name)
    except InvalidInput as error:
        if setting is Precision.BF16:
            raise
        note(f"computing in fp32: {error.problem}")
        return exact
    return fast


def subjects(members: Iterable[Member]) -> Iterator[Subject]:
    """Members of routes, each once."""
    seen = set()
    for member in members:
        if member_key(member) not in seen:
            seen.add(member_key(member))
            size = member.task.spec.preprocess.image_size
            name = member.text(with_task=True)
            yield Subject(name=name, image_size=size, models=partial(_alone, member))


def _alone(member: Member, loader: Loader) -> Sequence[Model]:
    return [loader.model(member)]


def probes(size: int) -> Tensor:
    """A few smooth random images, [n, 3, S, S], normalised as a backbone expects them."""
    coarse = torch.randn(_PROBES, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")


def check(difference: float, route: str) -> None:
    """Refuse a precision that changes the answers.

    Args:
        difference: The largest difference of a logit, relative to the largest one, of a route.

    Raises:
        InvalidInput: The difference is beyond `TOLERANCE`, or not a number.
    """
    if not difference <= TOLERANCE:
        raise InvalidInput(
            f"bf16 changes logits of {route} by {difference:.1%} of the largest one; "
            f"accepted are {TOLERANCE:.0%}",
            field="precision",
            remedy="use --precision fp32",
        )


def _difference_if_sound(subject: Subject, exact: Loader, fast: Loader) -> float:
    """As `difference`, but 0 if a file is damaged: that model cannot answer, and must not stop the others."""
    try:
        return difference(subject, exact, fast)
    except CorollaError as error:
        _log.warning("%s is not compared with fp32: %s", subject.name, error)
        return 0.0


def difference(subject: Subject, exact: Loader, fast: Loader) -> float:
    """The largest difference of the models' logits, relative to the largest logit of each.

    In bf16 every image is answered twice, beside the others and alone: a single row may use other products.

    Raises:
        CorollaError: What is compared cannot be loaded.
    """
    images = probes(subject.image_size)
    expected, beside = (_logits(subject, loader, [images]) for loader in (exact, fast))
    alone = _logits(subject, fast, images.split(1))
    pairs = [(z, other) for answers in (beside, alone) for z, other in zip(expected, answers, strict=True)]
    worst = [float((z - other).abs().max() / z.abs().max().clamp_min(1e-12)) for z, other in pairs]
    return max((one if math.isfinite(one) else math.inf for one in worst), default=0.0)


def _logits(subject: Subject, loader: Loader, batches: Sequence[Tensor]) -> list[Tensor]:
    """[n, C] of each model over batches of images."""
    batch, models = Batch(loader.vit(subject.image_size)), subject.models(loader)
    return [logits.double() for logits in logits_over(batch, models, batches)]
