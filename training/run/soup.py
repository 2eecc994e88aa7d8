"""Soups and merges: several adapters of one task become one, an adapter like any other.

Uniform takes all members with equal shares (arXiv 2203.05482). Greedy goes through them from the best down,
and keeps one if the average with it classifies strictly more held-out images correctly than the average
without it. The kinds of `training.merges` merge the members' changes of the weights (docs/merges.md). The
manifest holds the recipe.

A greedy soup is measured on the images that it was chosen on, so its accuracy is slightly optimistic.

Shapes: n images, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from model_store.collections.images import digests_in
from model_store.format.records import Manifest, TaskRecord
from model_store.names import LATEST, check_name
from model_store.resolution.loading import Loader
from model_store.resolution.precision import checked, subjects
from model_store.resolution.versions import Member, ResolvedTerm, resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit import methods
from petl_vit.batch import Model
from petl_vit.device import chosen_device, use_threads
from petl_vit.errors import InvalidInput, near
from petl_vit.image_input import MAX_PIXELS
from petl_vit.methods.method import Method
from petl_vit.precision import Precision
from training.data.dataset import align_classes
from training.data.loading import Resized
from training.data.reading import reading_of
from training.data.records import Dataset
from training.data.sources import load_measured
from training.merges.recipe import KINDS, Recipe
from training.merges.storing import Cut
from training.progress import Reporter, Silent
from training.run.averages import Averages
from training.run.heldout import HeldOut, below_base
from training.run.merged import Merged, Merging
from training.run.referencing import Answered
from training.run.training_data import unlearnt_by

SOUPS: Final = ("greedy", "uniform")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Which adapters, on what, and where the soup goes.

    Attributes:
        backbone: Name or digest in the store.
        members: Text of a route whose entries are single adapters, such as `lora, ssf:2`.
        data: Labelled images; see `training.data.dataset.load`.
        holdout: Share of them that is held out, as in training; None takes all of them.
        split_seed: The one that the members were trained with, so that none is chosen on images it saw.
        kind: One of `SOUPS`, or of `training.merges.recipe.KINDS`.
        density, drop_rate, seed, rank: Of a merge, as `training.merges.recipe.Recipe` says.
        max_pixels, skip_bad, image_column, label_column: How images are read, as
            `training.data.reading.Reading` says.
        precision: What the choice is made in, as a server's.
    """

    backbone: str
    task: str
    name: str
    members: str
    data: str
    kind: str = "greedy"
    density: float | None = None
    drop_rate: float | None = None
    seed: int | None = None
    rank: int | None = None
    holdout: float | None = 0.2
    split_seed: int = 0
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    image_column: str = ""
    label_column: str = ""
    device: str = "cpu"
    precision: Precision = Precision.AUTO


@dataclass(frozen=True, kw_only=True)
class Ingredient:
    """One member: how well it does alone, and its share in the soup.

    Attributes:
        weight: 0 where it was left out; None in a merge, which has no shares.
    """

    manifest: Manifest
    accuracy: float
    weight: float | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The registered soup or merge and its members, best first.

    Attributes:
        cut: What the largest rank cost, where one was asked for.
        latest: The version that `latest` points at; None where the soup has no `latest`.
    """

    manifest: Manifest
    members: tuple[Ingredient, ...]
    latest: int | None
    cut: Cut | None = None

    @property
    def warning(self) -> str:
        """That the soup is far below its base head, and how to promote it nevertheless; else empty."""
        return below_base(self.manifest, self.latest)


def run(store: Store, job: Job, reporter: Reporter | None = None) -> Outcome:
    """Makes, measures and registers a soup or a merge.

    Raises:
        NotFound: The backbone, a member or the data do not exist.
        InvalidInput: A member is not a single adapter, or is there twice; a setting is out of range or of
            another kind; the data has other classes, or is mostly what members were trained on.
        Unsupported: A member belongs to another backbone, or does not fold and the kind needs it to.
    """
    check_name(job.name, "name")
    recipe = _recipe(job)
    backbone = store.backbones.get(job.backbone)
    reporter = reporter or Silent()
    members = _members(store, job, backbone.digest)
    task = members[0].task
    use_threads()
    exact = Loader(store, backbone, device=chosen_device(job.device))
    merging = None if recipe is None else Merging(exact, members, recipe)
    dataset = _unlearnt(store, job, members, reporter)
    loader = _loader(exact, job, members, reporter)
    averages = Averages(loader, members, _read(job, dataset, task, loader, reporter), reporter)
    accuracies = averages.each(members)
    ranked = sorted(members, key=lambda term: -accuracies[term.digest])
    if merging is None:
        made = _averaged(store, job, ranked, accuracies, averages)
    else:
        made = _merged(merging.run(reporter), ranked, accuracies, averages)
    logits, base, features = averages.answers(made.model)
    draft = averages.heldout.drafted(
        task=task,
        name=job.name,
        method=made.method,
        training=_training(job, made),
        logits=logits,
        base=base,
        arch=averages.arch,
        precision=loader.precision,
    )
    manifest = store.adapters.publish(draft, made.tensors, latest=not draft.training.get("far_below_base"))
    answered = Answered(
        heldout=averages.heldout, logits=logits, base=base, features=features, precision=loader.precision
    )
    answered.keep(store, manifest, reporter.note)
    latest = store.adapters.version_of(manifest.task, manifest.name, LATEST)
    return Outcome(manifest=manifest, members=made.members, latest=latest, cut=made.cut)


@dataclass(frozen=True, kw_only=True)
class _Made:
    """What was made of the members, ready to be measured and published."""

    method: Method
    tensors: dict[str, Tensor]
    model: Model
    members: tuple[Ingredient, ...]
    settings: dict[str, Any]
    cut: Cut | None = None


def _averaged(
    store: Store,
    job: Job,
    ranked: list[ResolvedTerm],
    accuracies: dict[str, float],
    averages: Averages,
) -> _Made:
    """The soup of the members that its kind chooses."""
    chosen = ranked if job.kind == "uniform" else _greedy(ranked, accuracies, averages)
    members = tuple(
        Ingredient(
            manifest=_manifest(term), accuracy=accuracies[term.digest], weight=(term in chosen) / len(chosen)
        )
        for term in ranked
    )
    parts = [member for member in members if member.weight]
    model = averages.average(chosen)
    return _Made(
        method=_soup(parts),
        tensors=_tensors(store, parts) | _on_cpu(model.head.tensors()),
        model=model,
        members=members,
        settings={},
    )


def _merged(
    merged: Merged, ranked: list[ResolvedTerm], accuracies: dict[str, float], averages: Averages
) -> _Made:
    return _Made(
        method=merged.method,
        tensors=merged.tensors,
        model=averages.model(merged.method, merged.tensors),
        members=tuple(
            Ingredient(manifest=_manifest(term), accuracy=accuracies[term.digest], weight=None)
            for term in ranked
        ),
        settings=merged.method.settings | merged.training,
        cut=merged.cut,
    )


def _recipe(job: Job) -> Recipe | None:
    """Of a merge; None of a soup."""
    if job.kind not in (*SOUPS, *KINDS):
        raise InvalidInput(
            f"there is no kind {job.kind!r}",
            field="kind",
            remedy=near(job.kind, (*SOUPS, *KINDS)) or f"use one of {', '.join((*SOUPS, *KINDS))}",
        )
    settings = {name: getattr(job, name) for name in ("density", "drop_rate", "seed", "rank")}
    if job.kind in KINDS:
        return Recipe.of(job.kind, **settings)
    unused = next((name for name, value in settings.items() if value is not None), None)
    if unused is not None:
        raise InvalidInput(
            f"a {job.kind} soup has no such setting",
            field=unused,
            remedy=f"leave it out, or use a kind that merges: {', '.join(KINDS)}",
        )
    return None


def _loader(exact: Loader, job: Job, terms: list[ResolvedTerm], reporter: Reporter) -> Loader:
    """Of the precision that the choice is made in."""
    base = ResolvedTerm(alpha=1.0, manifest=None, task=terms[0].task)
    members = (Member(weight=1.0, terms=(term,)) for term in [*terms, base])
    return checked(job.precision, exact, subjects(members), reporter.note)


def _read(job: Job, dataset: Dataset, task: TaskRecord, loader: Loader, reporter: Reporter) -> HeldOut:
    preprocess = task.spec.preprocess
    with reporter.stage("reading held-out images", len(dataset)) as advance:
        images = Resized(dataset, preprocess, loader.vit(preprocess.image_size), advance=advance)
    return HeldOut(dataset=dataset, images=images, holdout=job.holdout, split_seed=job.split_seed)


def _unlearnt(store: Store, job: Job, members: Sequence[ResolvedTerm], reporter: Reporter) -> Dataset:
    """The images that choose: none that a member or the base head was trained on.

    Raises:
        InvalidInput: That is most of them; names the members.
    """
    return unlearnt_by(
        store,
        members,
        align_classes(_heldout(job, reporter), members[0].task.spec.classes),
        reporter.note,
        field="data",
        remedy="leave those members out, choose the --holdout and --split-seed that all were trained with, "
        "or give images that nothing was trained on, with --all-images",
    )


def _greedy(
    ranked: list[ResolvedTerm], accuracies: dict[str, float], averages: Averages
) -> list[ResolvedTerm]:
    chosen, best = ranked[:1], accuracies[ranked[0].digest]
    for term in ranked[1:]:
        accuracy = averages.accuracy([*chosen, term])
        if accuracy > best:
            chosen, best = [*chosen, term], accuracy
    return chosen


def _members(store: Store, job: Job, backbone_digest: str) -> list[ResolvedTerm]:
    """The members' versions, each once."""
    route = parse_route(job.members)
    for entry in route.entries:
        terms = entry.model.terms
        if entry.weight != 1 or len(terms) != 1 or terms[0].alpha != 1 or terms[0].adapter.is_base:
            raise InvalidInput(
                f"{entry} is not one adapter",
                field="members",
                remedy="write names only, such as `lora, ssf:2`; the soup finds the shares",
            )
    resolved = resolve(route, task=job.task, store=store, backbone_digest=backbone_digest)
    members = [member.terms[0] for member in resolved.members]
    labels = [term.digest for term in members]
    if resolved.task.digest != members[0].task.digest:
        raise InvalidInput(
            f"{members[0].full_name} is not of task {job.task!r}",
            field="members",
            remedy=f"choose adapters of {job.task}, or give --task {members[0].task.spec.name}",
        )
    for term in members:
        if term.task.digest != members[0].task.digest:
            raise InvalidInput(
                f"{term.full_name} and {members[0].full_name} have different tasks or base heads",
                field="members",
                remedy="choose adapters of one task",
            )
        if labels.count(term.digest) > 1:
            raise InvalidInput(f"{term.label} is there twice", field="members", remedy="name it once")
    if len(members) < 2:
        raise InvalidInput("a soup needs two members or more", field="members", remedy="add another adapter")
    return members


def _heldout(job: Job, reporter: Reporter) -> Dataset:
    return load_measured(
        job.data,
        holdout=job.holdout,
        seed=job.split_seed,
        reading=reading_of(job, reporter, measured=True),
    )


def _manifest(term: ResolvedTerm) -> Manifest:
    assert term.manifest is not None  # `base` is not a member
    return term.manifest


def _soup(members: Sequence[Ingredient]) -> Method:
    """The method of an average: each member's method, config and share."""
    return methods.get("soup").configure(
        {
            "terms": [
                {"weight": member.weight, "method": member.manifest.method, "config": member.manifest.config}
                for member in members
            ]
        }
    )


def _tensors(store: Store, members: Sequence[Ingredient]) -> dict[str, Tensor]:
    """The members' tensors but their heads, each under its member's place."""
    return {
        f"{place}.{name}": tensor
        for place, member in enumerate(members)
        for name, tensor in store.adapters.load(member.manifest).items()
        if not name.startswith("head.")
    }


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().float().cpu() for name, tensor in tensors.items()}


def _training(job: Job, made: _Made) -> dict[str, Any]:
    """How it was made, for its manifest."""
    trained = [member.manifest.training for member in made.members if member.weight != 0]
    recorded = all(digests_in(training) for training in trained)
    digests = {digest for training in trained for digest in digests_in(training)}
    return {
        "soup": job.kind,
        **made.settings,
        **({"data_digests": sorted(digests)} if recorded else {}),
        "members": [
            {
                "adapter": str(member.manifest),
                "digest": member.manifest.digest,
                "accuracy": member.accuracy,
                **({} if member.weight is None else {"weight": member.weight}),
            }
            for member in made.members
        ],
    }
