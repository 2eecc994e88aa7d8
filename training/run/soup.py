"""Model soups: adapters of one task averaged in weight space, chosen on held-out images (arXiv 2203.05482).

Uniform takes all members with equal shares. Greedy goes through them from the best down, and keeps one if
the average with it classifies strictly more held-out images correctly than the average without it. The
result is an adapter like any other; its manifest holds its recipe.

A greedy soup is measured on the images that it was chosen on, so its accuracy is slightly optimistic.

Shapes: n images, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Term
from petl_vit.device import chosen_device, use_threads
from petl_vit.errors import InvalidInput
from petl_vit.image_input import MAX_PIXELS
from petl_vit.methods.method import Method
from petl_vit.precision import Precision
from training.data.dataset import align_classes
from training.data.loading import Resized
from training.data.reading import reading_of
from training.data.records import Dataset
from training.data.sources import load_measured
from training.progress import Reporter, Silent
from training.run.heldout import HeldOut, below_base
from training.run.referencing import Answered
from training.run.training_data import unlearnt_by

Kind = Literal["greedy", "uniform"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """Which adapters, on what, and where the soup goes.

    Attributes:
        backbone: Name or digest in the store.
        members: Text of a route whose entries are single adapters, such as `lora, ssf:2`.
        data: Labelled images; see `training.data.dataset.load`.
        holdout: Share of them that is held out, as in training; None takes all of them.
        split_seed: The one that the members were trained with, so that none is chosen on images it saw.
        max_pixels, skip_bad, image_column, label_column: How images are read, as
            `training.data.reading.Reading` says.
        precision: What the choice is made in, as a server's.
    """

    backbone: str
    task: str
    name: str
    members: str
    data: str
    kind: Kind = "greedy"
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
    """One member: how well it does alone, and its share in the soup; 0 where it was left out."""

    manifest: Manifest
    accuracy: float
    weight: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The registered soup and its members, best first.

    Attributes:
        latest: The version that `latest` points at; None where the soup has no `latest`.
    """

    manifest: Manifest
    members: tuple[Ingredient, ...]
    latest: int | None

    @property
    def warning(self) -> str:
        """That the soup is far below its base head, and how to promote it nevertheless; else empty."""
        return below_base(self.manifest, self.latest)


def run(store: Store, job: Job, reporter: Reporter | None = None) -> Outcome:
    """Chooses, measures and registers a soup.

    Raises:
        NotFound: The backbone, a member or the data do not exist.
        InvalidInput: A member is not a single adapter, or is there twice; the data has other classes, or is
            mostly what members were trained on.
        Unsupported: A member belongs to another backbone.
    """
    check_name(job.name, "name")
    backbone = store.backbones.get(job.backbone)
    reporter = reporter or Silent()
    members = _members(store, job, backbone.digest)
    task, dataset = members[0].task, _unlearnt(store, job, members, reporter)
    use_threads()
    loader = _loader(Loader(store, backbone, device=chosen_device(job.device)), job, members, reporter)
    averages = _Averages(loader, members, _read(job, dataset, task, loader, reporter), reporter)
    accuracies = averages.each(members)
    ranked = sorted(members, key=lambda term: -accuracies[term.digest])
    chosen = ranked if job.kind == "uniform" else _greedy(ranked, accuracies, averages)
    ingredients = tuple(
        Ingredient(
            manifest=_manifest(term), accuracy=accuracies[term.digest], weight=(term in chosen) / len(chosen)
        )
        for term in ranked
    )
    parts = [ingredient for ingredient in ingredients if ingredient.weight]
    logits, base, features = averages.answers(chosen)
    draft = averages.heldout.drafted(
        task=task,
        name=job.name,
        method=_soup(parts),
        training=_training(job, ingredients),
        logits=logits,
        base=base,
        arch=averages.arch,
        precision=loader.precision,
    )
    manifest = store.adapters.publish(
        draft,
        _tensors(store, parts) | averages.head(chosen),
        latest=not draft.training.get("far_below_base"),
    )
    answered = Answered(
        heldout=averages.heldout, logits=logits, base=base, features=features, precision=loader.precision
    )
    answered.keep(store, manifest, reporter.note)
    latest = store.adapters.version_of(manifest.task, manifest.name, LATEST)
    return Outcome(manifest=manifest, members=ingredients, latest=latest)


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
    ranked: list[ResolvedTerm], accuracies: dict[str, float], averages: "_Averages"
) -> list[ResolvedTerm]:
    chosen, best = ranked[:1], accuracies[ranked[0].digest]
    for term in ranked[1:]:
        accuracy = averages.accuracy([*chosen, term])
        if accuracy > best:
            chosen, best = [*chosen, term], accuracy
    return chosen


class _Averages:
    """Measures averages of the members on held-out images."""

    def __init__(
        self, loader: Loader, members: list[ResolvedTerm], heldout: HeldOut, reporter: Reporter
    ) -> None:
        task = members[0].task
        vit = loader.vit(task.spec.preprocess.image_size)
        self.heldout, self.arch = heldout, vit.arch
        self._adapters: dict[str, Adapter] = {term.digest: loader.adapter(term) for term in members}
        self._base = Adapter.base(base_head=loader.base_head(task), task_digest=task.digest)
        self._batch, self._reporter = Batch(vit, folded_models=1), reporter

    def each(self, terms: list[ResolvedTerm]) -> dict[str, float]:
        """The accuracy of each term by itself, by digest; dense ones run alone."""
        models = {term.digest: self._average([term]) for term in terms}
        together = [digest for digest, model in models.items() if not model.dense]
        groups = [*([together] if together else []), *([d] for d in models if d not in together)]
        labels, accuracies = {term.digest: term.label for term in terms}, dict[str, float]()
        for group in groups:
            logits = self._run([models[d] for d in group], ", ".join(labels[d] for d in group))
            accuracies |= {digest: self._accuracy(z) for digest, z in zip(group, logits, strict=True)}
        return accuracies

    def accuracy(self, terms: list[ResolvedTerm]) -> float:
        """Of the average of the terms."""
        (logits,) = self._run([self._average(terms)], " + ".join(term.label for term in terms))
        return self._accuracy(logits)

    def answers(self, terms: list[ResolvedTerm]) -> tuple[Tensor, Tensor, Tensor]:
        """[n, C] of the average of the terms and of the task's base head, and the frozen features [n, D]."""
        models = [self._average(terms), Model([Term(adapter=self._base)])]
        with self._reporter.stage("measuring the soup", len(self.heldout.images)) as advance:
            (average, base), features = self.heldout.answers(self._batch, models, advance)
        return average, base, features

    def head(self, terms: list[ResolvedTerm]) -> dict[str, Tensor]:
        """The average's head, on the CPU."""
        tensors = self._average(terms).head.tensors()
        return {name: tensor.detach().float().cpu() for name, tensor in tensors.items()}

    def _average(self, terms: list[ResolvedTerm]) -> Model:
        share = 1 / len(terms)
        return Model([Term(adapter=self._adapters[term.digest], alpha=share) for term in terms])

    def _run(self, models: list[Model], what: str) -> list[Tensor]:
        """[n, C] of each model, on the CPU."""
        with self._reporter.stage(f"measuring {what}", len(self.heldout.images)) as advance:
            return self.heldout.logits(self._batch, models, advance)

    def _accuracy(self, logits: Tensor) -> float:
        return float((logits.argmax(dim=-1) == self.heldout.labels).double().mean())


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


def _training(job: Job, members: Sequence[Ingredient]) -> dict[str, Any]:
    """How a soup was made, for its manifest."""
    trained = [member.manifest.training for member in members if member.weight]
    recorded = all(digests_in(training) for training in trained)
    digests = {digest for training in trained for digest in digests_in(training)}
    return {
        "soup": job.kind,
        **({"data_digests": sorted(digests)} if recorded else {}),
        "members": [
            {
                "adapter": str(member.manifest),
                "digest": member.manifest.digest,
                "weight": member.weight,
                "accuracy": member.accuracy,
            }
            for member in members
        ],
    }
