"""Measuring routes on labelled images without a server: from names to one document.

What computes is imported once the names are known to exist.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from corolla.candidates import Chooser
from model_store.store import Store
from petl_vit.errors import InvalidInput
from petl_vit.image_input import MAX_PIXELS
from petl_vit.precision import Precision
from training.data import shift
from training.measure.document import EvaluatedSet, Evaluation, Result

if TYPE_CHECKING:
    from training.data.learnt import Learnt
    from training.data.records import Dataset
    from training.measure.candidate import Candidate
    from training.progress import Reporter

_LIMIT_SEED = 2**31
"""No seed of a split, as what such a seed ranks first is what `train --limit` trains on."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is to be measured, on what.

    Attributes:
        data: Sets of labelled images, as `training.data.sources.load_dataset` opens them. Routes are chosen
            and calibrated on the first; further ones are other domains.
        routes: Routes, or names of routes; none is every adapter, the base, and ensembles of these.
        members_of: Also every member of these routes by itself.
        alphas: Every single adapter also at these.
        shifts: Every set also under these, as `training.data.shift.parse_all` reads them.
        holdout: Only the images that training with this share holds out, but for those that the routes were
            trained on; None is all. A set that none of the routes was trained on is measured whole.
        limit: At most so many images of each set.
        max_pixels, skip_bad, image_column, label_column: How images are read, as
            `training.data.reading.Reading` says.
        backbone: Name or digest; None is the only one.
        device, precision: What the backbone runs on, and computes in.
        logits: Folder in which logits are kept; None is the user's.
        again: Whether to compute what is stored there already.
    """

    data: Sequence[str]
    task: str
    routes: Sequence[str] = ()
    members_of: Sequence[str] = ()
    alphas: Sequence[float] = ()
    shifts: Sequence[str] = ()
    holdout: float | None = None
    split_seed: int = 0
    limit: int | None = None
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    image_column: str = ""
    label_column: str = ""
    extrapolate: bool = False
    backbone: str | None = None
    device: str = "auto"
    precision: str = "auto"
    logits: Path | None = None
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One route on one set of images, in short.

    Attributes:
        route: The name of a named route, else its text with versions.
        precision: What it was computed in, fp32 or bf16.
        left_out: How many files of the set are not among the images, by reason.
        trained_on: How many of the images the route's adapters and base heads were trained on, as far as that
            is recorded.
    """

    route: str
    data: str
    images: int
    accuracy: float
    confidence: float
    agreement: float
    member_accuracies: dict[str, float]
    precision: str
    left_out: dict[str, int]
    trained_on: int = 0


def measured(evaluation: Evaluation) -> list[Measured]:
    """A row for each route and set, in the order of the results."""
    sets = {one.name: one for one in evaluation.sets}
    return [_row(one, sets[one.set], evaluation) for one in evaluation.results]


def _row(one: Result, on: EvaluatedSet, evaluation: Evaluation) -> Measured:
    return Measured(
        route=one.route,
        data=on.source if on.shift is None else f"{on.source} {on.shift}",
        images=on.images,
        accuracy=one.accuracy,
        confidence=one.confidence,
        agreement=one.agreement,
        member_accuracies=one.member_accuracies,
        precision=evaluation.machine.precision,
        left_out=on.left_out,
        trained_on=one.trained_on,
    )


def evaluate(store: Store, what: Measurement, reporter: "Reporter") -> Evaluation:
    """Measures every route on every set under every shift.

    Raises:
        NotFound: A route, the task, the backbone or the data do not exist.
        InvalidInput: A route, a shift or the data cannot work; names it. Or routes were trained on most of
            the images that would be held out.
    """
    noting = _Noting(reporter)
    record = store.backbones.get(what.backbone)
    under = shift.parse_all(what.shifts)
    if not what.data:
        raise InvalidInput("there is no set of images", field="data", remedy="name one with --data")
    chooser = Chooser(
        store=store,
        task=what.task,
        backbone=record.digest,
        extrapolate=what.extrapolate,
        note=noting.note,
    )
    candidates = chooser.chosen(what.routes, what.members_of)

    from model_store.resolution.loading import Loader
    from model_store.resolution.precision import checked, subjects
    from petl_vit.device import chosen_device, use_threads
    from training.measure import evaluation
    from training.measure.curves import checked as checked_alphas
    from training.measure.logit_store import LogitStore, default_folder

    alphas = checked_alphas(what.alphas, extrapolate=what.extrapolate) if what.alphas else ()
    learning = _Learning(store, candidates)
    classes = candidates[0].route.classes
    datasets = [_dataset(source, what, learning, classes, noting) for source in what.data]
    use_threads()
    exact = Loader(store, record, device=chosen_device(what.device))
    members = (member for candidate in candidates for member in candidate.route.members)
    loader = checked(Precision(what.precision), exact, subjects(members), noting.note)
    logits = LogitStore(what.logits or default_folder(), again=what.again)
    document = evaluation.evaluate(
        loader,
        candidates,
        datasets,
        under=under,
        alphas=alphas,
        store=logits,
        trained_on=learning.count,
        reporter=noting,
    )
    counts = document.logits
    noting.note(
        f"logits of models on sets: {counts.computed} computed, {counts.reused} taken from {logits.folder}"
    )
    if logits.problem:
        noting.note(logits.problem)
    return document.model_copy(update={"notes": tuple(noting.notes)})


class _Learning:
    """What routes have learnt; the images of each adapter and base head are read once."""

    def __init__(self, store: Store, candidates: "Sequence[Candidate]") -> None:
        from training.data.learnt import by_adapters

        terms = {term.digest: term for one in candidates for term in one.route.terms()}
        self._by_term = {digest: by_adapters(store, [term]) for digest, term in terms.items()}

    def of(self, one: "Candidate | None" = None) -> "list[Learnt]":
        """What one route has learnt, or all of them; each adapter and base head once."""
        digests = list(self._by_term) if one is None else [term.digest for term in one.route.terms()]
        return list(dict.fromkeys(learnt for digest in digests for learnt in self._by_term[digest]))

    def count(self, one: "Candidate", dataset: "Dataset") -> int:
        """How many of the images a route was trained on."""
        from training.data.learnt import Overlap

        return len(Overlap(dataset, self.of(one)))


def images(
    store: Store, what: Measurement, candidates: "Sequence[Candidate]", reporter: "Reporter"
) -> "list[Dataset]":
    """The sets that `evaluate` measures these routes on, as they are."""
    learning, classes = _Learning(store, candidates), candidates[0].route.classes
    return [_dataset(source, what, learning, classes, reporter) for source in what.data]


def _dataset(
    source: str, what: Measurement, learning: _Learning, classes: Sequence[str], reporter: "Reporter"
) -> "Dataset":
    """The images to measure on: with a holdout, none that any of the routes was trained on."""
    from training.data.dataset import note_absent, split_dataset, subset
    from training.data.learnt import Overlap
    from training.data.reading import reading_of
    from training.data.sources import load_measured
    from training.run.training_data import unlearnt_by_all

    reading = reading_of(what, reporter, measured=True)
    dataset = load_measured(source, holdout=None, seed=what.split_seed, reading=reading)
    learnt = learning.of()
    note_absent(dataset, classes, reporter.note)
    if what.holdout is not None:
        before = Overlap(dataset, learnt)
        if len(before) or before.unknown:
            dataset = split_dataset(dataset, holdout=what.holdout, seed=what.split_seed)[1]
            dataset = unlearnt_by_all(
                learnt,
                dataset,
                reporter.note,
                field="holdout",
                remedy="give the --data, --holdout and --split-seed of their training, which `corolla "
                "adapters show` prints",
            )
        else:
            reporter.note(
                f"no route was trained on an image of {dataset.name}, so --holdout takes none of them away"
            )
    if what.limit is not None:
        dataset = subset(dataset, min(what.limit, len(dataset)), _LIMIT_SEED)
    overlap = Overlap(dataset, learnt)
    if len(overlap):
        reporter.note(
            f"{len(overlap)} of the {len(dataset)} images of {dataset.name} are training images of "
            f"{overlap.names}: accuracy on them says nothing of new images; --holdout leaves them out"
        )
    return dataset


class _Noting:
    """A reporter that remembers the notes."""

    def __init__(self, reporter: "Reporter") -> None:
        self._reporter, self.notes = reporter, list[str]()

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return self._reporter.stage(name, total)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._reporter.note(text)

    def status(self, text: str) -> None:
        self._reporter.status(text)
