"""From a route's names to the exact versions that answer it, and the checks between its members.

Knows records, not tensors. Names resolve once, here; from then on adapters are identified by digest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model_store.format.records import Manifest, TaskRecord
from model_store.names import class_name, differences
from model_store.routes.algebra import AdapterRef, Entry, Route, check_alphas, in_brackets
from model_store.routes.algebra import Term as RouteTerm
from model_store.routes.alpha import Alpha, ByBlock, number, over, weighed
from model_store.store import Store
from petl_vit import summaries
from petl_vit.alphas import not_by_block
from petl_vit.combine import Combine
from petl_vit.depth import depth_of
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.image_input import Preprocess

T = TypeVar("T", bound=np.floating)


@dataclass(frozen=True, kw_only=True)
class ResolvedTerm:
    """One adapter version, or the base of a task, and its alpha.

    Attributes:
        alpha: Of a known depth, and a number where it is the same in all blocks.
    """

    alpha: Alpha
    manifest: Manifest | None  # None: the frozen backbone with the task's base head
    task: TaskRecord

    @property
    def digest(self) -> str:
        return self.task.digest if self.manifest is None else self.manifest.digest

    @property
    def label(self) -> str:
        """`name:version` or `base`."""
        return "base" if self.manifest is None else f"{self.manifest.name}:{self.manifest.version}"

    @property
    def full_name(self) -> str:
        """`task/name:version` or `task/base`."""
        return f"{self.task.spec.name}/{self.label}"

    @property
    def method(self) -> str:
        return "linear" if self.manifest is None else self.manifest.method


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model in weight space, a member of the ensemble."""

    weight: float
    terms: tuple[ResolvedTerm, ...]

    @property
    def task(self) -> TaskRecord:
        return self.terms[0].task

    @property
    def name(self) -> str:
        """The member without versions, which change: a label for metrics."""
        return "+".join(weighed(term.alpha, term.label.partition(":")[0]) for term in self.terms)

    @property
    def adapters(self) -> tuple[ResolvedTerm, ...]:
        """A term of each adapter, once, in order."""
        return tuple({term.digest: term for term in self.terms}.values())

    def text(self, *, with_task: bool = False) -> str:
        """The member with its versions, as a route's text."""
        return " + ".join(
            weighed(term.alpha, term.full_name if with_task else term.label) for term in self.terms
        )

    def __str__(self) -> str:
        return self.text()


@dataclass(frozen=True, kw_only=True)
class ResolvedRoute:
    """A route with every name replaced by a version and its digest.

    Attributes:
        task: The answer has its classes, in its order.
        members: At least one; all have the task's classes, in any order, and prepare images alike.
        combine: How their logits become one answer.
        loss: A cascade's: the accuracy that it may lose.
    """

    task: TaskRecord
    members: tuple[Member, ...]
    combine: Combine
    loss: float | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.task.spec.classes

    @property
    def preprocess(self) -> Preprocess:
        """How images reach the members."""
        return self.members[0].task.spec.preprocess

    def terms(self) -> Iterator[ResolvedTerm]:
        """Each adapter once, in order."""
        seen = {term.digest: term for member in self.members for term in member.terms}
        yield from seen.values()

    def class_order(self, member: Member) -> tuple[int, ...] | None:
        """The positions of the answer's classes among the member's; None if the order is the same."""
        classes = member.task.spec.classes
        if classes == self.classes:
            return None
        spelt = str if set(classes) == set(self.classes) else class_name  # which takes its time
        position = {spelt(name): i for i, name in enumerate(classes)}
        return tuple(position[spelt(name)] for name in self.classes)

    def aligned(
        self, logits: Sequence[NDArray[T]], members: Sequence[Member] | None = None
    ) -> list[NDArray[T]]:
        """The logits [..., C] of members, each in the order of the answer's classes.

        Args:
            members: Those whose logits they are; None is all.
        """
        orders = [self.class_order(member) for member in (self.members if members is None else members)]
        return [z if o is None else z[..., list(o)] for z, o in zip(logits, orders, strict=True)]

    def __str__(self) -> str:
        """The route's text with versions; with tasks where a member is of another than the answer."""
        foreign = any(member.task.spec.name != self.task.spec.name for member in self.members)
        texts = ((m.weight, m.text(with_task=foreign)) for m in self.members)
        text = ", ".join(member if weight == 1 else f"{number(weight)}: {member}" for weight, member in texts)
        return in_brackets(text, self.combine, self.loss)


def resolve(
    route: Route, *, task: str, store: Store, backbone_digest: str, extrapolate: bool = False
) -> ResolvedRoute:
    """The versions that a route means now.

    Args:
        route: The route.
        task: The task whose classes are asked for, and of adapters that name none. May be empty if all do;
            the classes are then those of the first member.
        store: Where names are looked up.
        backbone_digest: The backbone that is to run it.
        extrapolate: Whether alphas may lie outside [0, 1].

    Raises:
        NotFound: A task, adapter, version or alias that does not exist; names near matches.
        InvalidInput: No task is named; or an alpha is outside its range, names a block beyond the last, or
            differs by block where a method cannot; or the members differ in their classes or in how they
            prepare images, or have other classes than the task; or the terms of a sum differ in their task.
        Unsupported: An adapter belongs to another backbone.
    """
    check_alphas(route, extrapolate)
    members = tuple(_member(entry, task, store, backbone_digest) for entry in route.entries)
    for member in members[1:]:
        _check_classes(members[0], member)
        _check_preprocess(members[0], member)
    record = next((m.task for m in members if task in ("", m.task.spec.name)), None)
    if record is None:
        record = store.tasks.get(task, backbone_digest)
        _check_task(record, members[0])
    return ResolvedRoute(task=record, members=members, combine=route.combine, loss=route.loss)


def backbone_of(route: Route, *, task: str, store: Store) -> str:
    """The digest of the backbone of a route's first adapter; of its task's where it names `base` alone.

    Raises:
        NotFound: The adapter or the task does not exist.
        InvalidInput: The task is on several backbones.
    """
    adapters = [ref for ref in route.adapters if not ref.is_base]
    if adapters:
        return store.adapters.resolve(adapters[0], task).backbone_digest
    return store.tasks.get(route.adapters[0].task or task).spec.backbone_digest


def _member(entry: Entry, task: str, store: Store, backbone_digest: str) -> Member:
    terms = tuple(_term(term, task, store, backbone_digest) for term in entry.model.terms)
    for term in terms[1:]:
        if term.task.digest != terms[0].task.digest:
            raise InvalidInput(
                f"{terms[0].full_name} and {term.full_name} belong to different tasks or base heads",
                field="route",
                remedy="sum adapters of one task, or make them members of an ensemble with a comma",
            )
    return Member(weight=entry.weight, terms=terms)


def _term(term: RouteTerm, task: str, store: Store, backbone_digest: str) -> ResolvedTerm:
    resolved = _version(term.adapter, task, store, backbone_digest)
    if not isinstance(term.alpha, ByBlock):
        return replace(resolved, alpha=term.alpha)
    return replace(resolved, alpha=_by_block(term.alpha, resolved, store, backbone_digest))


def _by_block(alpha: ByBlock, term: ResolvedTerm, store: Store, backbone_digest: str) -> Alpha:
    """An alpha that is written by block, in the blocks of the backbone."""
    backbone = store.backbones.with_digest(backbone_digest)
    known = over(alpha, depth_of(backbone.config), of=term.label, backbone=f"backbone {backbone.name}")
    method = summaries.summaries().get(term.method)  # one that is not known is refused when it is loaded
    if isinstance(known, ByBlock) and method is not None and not method.by_block:
        raise not_by_block(f"{term.label} ({term.method})")
    return known


def _version(ref: AdapterRef, task: str, store: Store, backbone_digest: str) -> ResolvedTerm:
    """What a reference to one adapter means, at alpha 1."""
    name = ref.task or task
    if not name:
        raise InvalidInput(
            f"adapter {ref} names no task", field="task", remedy=f"set the task, or write TASK/{ref}"
        )
    if ref.is_base:
        return ResolvedTerm(alpha=1.0, manifest=None, task=store.tasks.get(name, backbone_digest))
    manifest = store.adapters.resolve(ref, name)
    if manifest.backbone_digest != backbone_digest:
        raise Unsupported(
            f"adapter {manifest} belongs to backbone {manifest.backbone_digest[:12]}, "
            f"this is {backbone_digest[:12]}",
            field="route",
            remedy="serve that backbone, or train the adapter again on this one",
        )
    return ResolvedTerm(alpha=1.0, manifest=manifest, task=store.tasks.of(manifest))


def _check_classes(first: Member, other: Member) -> None:
    whose, others = first.terms[0].full_name, other.terms[0].full_name
    if differ := _differ(first.task, other.task, whose):
        raise InvalidInput(
            f"members {whose} and {others} have different classes ({differ})",
            field="route",
            remedy="an ensemble's members must share their classes",
        )


def _check_task(task: TaskRecord, member: Member) -> None:
    """The classes that are asked for are those of the members."""
    whose = member.terms[0].full_name
    if differ := _differ(member.task, task, whose):
        raise InvalidInput(
            f"task {task.spec.name!r} has other classes than {whose} ({differ})",
            field="task",
            remedy=f"ask for task {member.task.spec.name}, or for adapters of task {task.spec.name}",
        )


def _differ(first: TaskRecord, other: TaskRecord, whose: str) -> str:
    """The classes that only one of two tasks has, as those of `whose`; empty where they have the same."""
    ours, theirs = (set(map(class_name, task.spec.classes)) for task in (first, other))
    return "" if ours == theirs else differences(theirs, ours, whose=whose)


def _check_preprocess(first: Member, other: Member) -> None:
    """An image is prepared once for all members."""
    if other.task.spec.preprocess != first.task.spec.preprocess:
        raise InvalidInput(
            f"tasks {first.task.spec.name!r} and {other.task.spec.name!r} prepare images differently",
            field="route",
            remedy="an ensemble's members must share image size, resizing and normalisation",
        )
