"""Model soups: adapters of one task averaged in weight space, chosen on held-out images (arXiv 2203.05482).

Uniform takes all members with equal shares. Greedy goes through them from the best down, and keeps one if
the average with it classifies strictly more held-out images rightly than the average without it. The
result is an adapter of its own, with its recipe in its manifest.

The accuracy of a greedy soup is that of the choice on the images that chose it, so it flatters a little.

Shapes: n images, C classes.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from model_store.format.records import Draft, Manifest, TaskRecord
from model_store.names import check_name
from model_store.resolution.loading import Loader
from model_store.resolution.precision import checked, subjects
from model_store.resolution.versions import Member, ResolvedRoute, ResolvedTerm, resolve
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Model, Term
from petl_vit.device import chosen_device
from petl_vit.errors import InvalidInput
from petl_vit.logits import images_at_once, logits_over
from petl_vit.precision import Precision
from training.data.dataset import align_classes, split_dataset
from training.data.loading import Resized
from training.data.records import Dataset
from training.data.sources import load_dataset
from training.measure.calibration import fit_temperature, measure
from training.run.job import Reporter, Silent

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
    """The registered soup and its members, best first."""

    manifest: Manifest
    members: tuple[Ingredient, ...]


def run(store: Store, job: Job, reporter: Reporter | None = None) -> Outcome:
    """Chooses, measures and registers a soup.

    Raises:
        NotFound: The backbone, a member or the data do not exist.
        InvalidInput: A member is no single adapter, or is there twice; the data has other classes.
        Unsupported: A member belongs to another backbone.
    """
    check_name(job.name, "name")
    backbone = store.backbones.get(job.backbone)
    reporter = reporter or Silent()
    members = _members(store, job, backbone.digest)
    task = members[0].task
    heldout = align_classes(_heldout(job), task.spec.classes)
    loader = _loader(Loader(store, backbone, device=chosen_device(job.device)), job, members, reporter)
    kitchen = _Kitchen(loader, task, members, heldout, reporter)
    alone = kitchen.alone(members)
    ranked = sorted(members, key=lambda term: -alone[term.digest])
    chosen = ranked if job.kind == "uniform" else _greedy(ranked, alone, kitchen)
    ingredients = tuple(
        Ingredient(manifest=_manifest(t), accuracy=alone[t.digest], weight=(t in chosen) / len(chosen))
        for t in ranked
    )
    draft, tensors = _draft(store, job, task, heldout, ingredients, kitchen.head(chosen))
    draft = _measured(draft, kitchen, chosen, loader)
    return Outcome(manifest=store.adapters.publish(draft, tensors), members=ingredients)


def _loader(exact: Loader, job: Job, terms: list[ResolvedTerm], reporter: Reporter) -> Loader:
    """Of the precision that the choice is made in."""
    base = ResolvedTerm(alpha=1.0, manifest=None, task=terms[0].task)
    members = (Member(weight=1.0, terms=(term,)) for term in [*terms, base])
    return checked(job.precision, exact, subjects(members), reporter.note)


def _greedy(ranked: list[ResolvedTerm], alone: dict[str, float], kitchen: "_Kitchen") -> list[ResolvedTerm]:
    chosen, best = ranked[:1], alone[ranked[0].digest]
    for term in ranked[1:]:
        accuracy = kitchen.accuracy([*chosen, term])
        if accuracy > best:
            chosen, best = [*chosen, term], accuracy
    return chosen


class _Kitchen:
    """Tastes averages of the members on the held-out images, which are read once."""

    def __init__(
        self,
        loader: Loader,
        task: TaskRecord,
        members: list[ResolvedTerm],
        heldout: Dataset,
        reporter: Reporter,
    ) -> None:
        vit = loader.vit(task.spec.preprocess.image_size)
        with reporter.stage("reading held-out images", len(heldout)) as advance:
            self._images = Resized(heldout, task.spec.preprocess, vit, advance=advance)
        self._adapters: dict[str, Adapter] = {term.digest: loader.adapter(term) for term in members}
        self._base = Adapter.base(base_head=loader.base_head(task), task_digest=task.digest)
        self._batch, self._reporter = Batch(vit, folded_models=1), reporter
        self.labels = self._images.labels

    def alone(self, terms: list[ResolvedTerm]) -> dict[str, float]:
        """The accuracy of each term by itself, by digest; dense ones run alone."""
        models = {term.digest: self._average([term]) for term in terms}
        together = [digest for digest, model in models.items() if not model.dense]
        parts = [*([together] if together else []), *([d] for d in models if d not in together)]
        labels, found = {term.digest: term.label for term in terms}, dict[str, float]()
        for part in parts:
            logits = self._run([models[d] for d in part], ", ".join(labels[d] for d in part))
            found |= {digest: self._rightly(z) for digest, z in zip(part, logits, strict=True)}
        return found

    def accuracy(self, terms: list[ResolvedTerm]) -> float:
        """Of the average of the terms."""
        what = " + ".join(term.label for term in terms)
        (logits,) = self._run([self._average(terms)], what)
        return self._rightly(logits)

    def logits(self, terms: list[ResolvedTerm]) -> tuple[Tensor, Tensor]:
        """[n, C] of the average of the terms and of the frozen backbone with the task's base head."""
        average, base = self._run([self._average(terms), Model([Term(adapter=self._base)])], "the soup")
        return average, base

    def head(self, terms: list[ResolvedTerm]) -> dict[str, Tensor]:
        """The average's head, on the CPU."""
        tensors = self._average(terms).head.tensors()
        return {name: tensor.detach().float().cpu() for name, tensor in tensors.items()}

    def _average(self, terms: list[ResolvedTerm]) -> Model:
        share = 1 / len(terms)
        return Model([Term(adapter=self._adapters[term.digest], alpha=share) for term in terms])

    def _run(self, models: list[Model], what: str) -> list[Tensor]:
        """[n, C] of each model, on the CPU."""
        batches = (self._images.batch(i) for i in self._images.batches(images_at_once(len(models))))
        with self._reporter.stage(f"measuring {what}", len(self._images)) as advance:
            return logits_over(self._batch, models, batches, advance)

    def _rightly(self, logits: Tensor) -> float:
        return float((logits.argmax(dim=-1) == self.labels).double().mean())


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
    found: ResolvedRoute = resolve(route, task=job.task, store=store, backbone_digest=backbone_digest)
    members = [member.terms[0] for member in found.members]
    labels = [term.digest for term in members]
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


def _heldout(job: Job) -> Dataset:
    dataset = load_dataset(job.data)
    if job.holdout is None:
        return dataset
    return split_dataset(dataset, holdout=job.holdout, seed=job.split_seed)[1]


def _manifest(term: ResolvedTerm) -> Manifest:
    assert term.manifest is not None  # `base` is no member
    return term.manifest


def _draft(
    store: Store,
    job: Job,
    task: TaskRecord,
    heldout: Dataset,
    members: tuple[Ingredient, ...],
    head: dict[str, Tensor],
) -> tuple[Draft, dict[str, Tensor]]:
    """The soup as an adapter: its members' tensors under their places, and its head."""
    kept = [member for member in members if member.weight]
    terms: list[dict[str, Any]] = [
        {"weight": member.weight, "method": member.manifest.method, "config": member.manifest.config}
        for member in kept
    ]
    tensors = {
        f"{place}.{name}": tensor
        for place, member in enumerate(kept)
        for name, tensor in store.adapters.load(member.manifest).items()
        if not name.startswith("head.")
    }
    soup = methods.get("soup").configure({"terms": terms})
    training: dict[str, Any] = {
        "soup": job.kind,
        "members": [
            {
                "adapter": str(member.manifest),
                "digest": member.manifest.digest,
                "weight": member.weight,
                "accuracy": member.accuracy,
            }
            for member in members
        ],
        "heldout": heldout.name,
        "heldout_digest": heldout.digest,
        "heldout_images": len(heldout),
        "holdout": job.holdout,
        "split_seed": job.split_seed,
    }
    draft = Draft.of(
        task=task.spec.name,
        name=job.name,
        method="soup",
        config=soup.model_dump(mode="json"),
        backbone_digest=task.spec.backbone_digest,
        task_digest=task.digest,
        training=training,
    )
    return draft, tensors | head


def _measured(draft: Draft, kitchen: _Kitchen, chosen: list[ResolvedTerm], loader: Loader) -> Draft:
    """The draft with its temperature and held-out metrics."""
    logits, base = kitchen.logits(chosen)
    temperature = fit_temperature(logits, kitchen.labels)
    arch = loader.vit(chosen[0].task.spec.preprocess.image_size).arch
    metrics = measure(logits, kitchen.labels, temperature=temperature)
    metrics |= {
        "base_accuracy": measure(base, kitchen.labels, temperature=1.0)["accuracy"],
        "parameters": float(methods.get("soup").configure(draft.config).parameters(arch)),
    }
    return draft.model_copy(
        update={"temperature": temperature, "metrics": metrics, "metrics_precision": loader.precision}
    )
