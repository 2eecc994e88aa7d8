"""Routes on sets of labelled images, in this process, through the rows that serve them: one document.

All routes answer an image in one forward, and what was computed before is not computed again
(`training.measure.logits`). The first set, as it is, is what everything is chosen and fitted on; further sets
and shifts are only measured.

Memory: the logits of one set under as many shifts as fit in `LOGIT_BYTES`, at least one; of the others a few
numbers for each image and route.

Shapes: n images, C classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np

from model_store.names import class_name
from model_store.resolution.loading import Loader, member_key
from petl_vit.errors import InvalidInput
from training.data.dataset import align_classes
from training.data.records import Dataset
from training.measure import machine
from training.measure.candidate import Candidate, trained_models
from training.measure.choices import Option, choose
from training.measure.curves import at_alpha, curve
from training.measure.described import described
from training.measure.document import EvaluatedSet, Evaluation, LogitCounts
from training.measure.figures import Curve
from training.measure.logit_store import LogitStore
from training.measure.logits import Shift, logits_under
from training.measure.on_set import Kept, OnSet, Seen
from training.measure.paired import CONFIDENT_SHARE
from training.measure.set_names import set_names
from training.progress import Reporter, Silent

LOGIT_BYTES = 2 * 2**30
"""Logits in memory at a time, unless those of one set under one shift are more."""


def evaluate(
    loader: Loader,
    candidates: Sequence[Candidate],
    datasets: Sequence[Dataset],
    *,
    under: Sequence[Shift] = (),
    alphas: Sequence[float] = (),
    store: LogitStore | None = None,
    trained_on: Callable[[Candidate, Dataset], int] = lambda candidate, dataset: 0,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Measures routes, and compares them.

    Args:
        candidates: Of one task; a route that is there twice is measured once.
        datasets: Their classes are matched to the task's by name; one may lack some. The first is what the
            routes are for.
        under: Every set also under these shifts, applied after resizing.
        alphas: Every single adapter also at these, from 0 to 1; none for no curves.
        store: Where logits are taken from and kept; None computes everything.
        trained_on: How many images of a set a route was trained on.

    Raises:
        InvalidInput: The classes differ, a set is empty, or a model answers with NaN; names it.
    """
    return _Evaluating(loader, candidates, datasets, under, alphas, store, reporter or Silent()).document(
        trained_on
    )


class _Evaluating:
    """One evaluation: sets one after the other, the first one first."""

    def __init__(
        self,
        loader: Loader,
        candidates: Sequence[Candidate],
        datasets: Sequence[Dataset],
        under: Sequence[Shift],
        alphas: Sequence[float],
        store: LogitStore | None,
        reporter: Reporter,
    ) -> None:
        self._loader, self._store, self._reporter = loader, store, reporter
        self._candidates = _of_one_task(candidates)
        self._classes = self._candidates[0].route.classes
        self._datasets = [align_classes(dataset, self._classes) for dataset in datasets]
        self._under: list[Shift | None] = [None, *under]
        self._alphas = tuple(alphas)
        singles = [one for one in trained_models(self._candidates) if one.kind == "adapter" and alphas]
        self._points = {one.label: {a: at_alpha(one.route, a) for a in self._alphas} for one in singles}
        self._routes = [one.route for one in self._candidates]
        self._routes += [route for points in self._points.values() for route in points.values()]
        self._computed = self._reused = 0

    def document(self, trained_on: Callable[[Candidate, Dataset], int]) -> Evaluation:
        arch = self._loader.vit(self._candidates[0].route.preprocess.image_size).arch
        names = set_names(self._datasets, self._under)
        of_sets = [
            EvaluatedSet(
                name=names[i, j],
                source=dataset.name,
                digest=dataset.digest,
                images=len(dataset),
                shift=None if shift is None else f"{shift[0]}:{shift[1]}",
                shifted=(i, j) != (0, 0),
                class_counts=tuple(dataset.labels.bincount(minlength=len(self._classes)).tolist()),
                left_out=dict(dataset.left_out),
            )
            for i, dataset in enumerate(self._datasets)
            for j, shift in enumerate(self._under)
        ]
        seen = self._seen(of_sets, trained_on)
        options = [
            _option(one.label, {s.on.name: s.kept[one.label] for s in seen}, len(one.route.members))
            for one in self._candidates
        ]
        return Evaluation(
            created_at=datetime.now(UTC),
            corolla=version("corolla"),
            machine=machine.machine(self._loader),
            task=self._candidates[0].route.task.spec.name,
            classes=self._classes,
            backbone=machine.backbone(self._loader),
            sets=tuple(of_sets),
            routes=tuple(described(one, arch) for one in self._candidates),
            results=tuple(s.results[one.label] for one in self._candidates for s in seen),
            confident_share=CONFIDENT_SHARE,
            pairs=tuple(pair for one in seen for pair in one.pairs),
            ensembles=tuple(found for one in seen for found in one.ensembles),
            curves=tuple(self._curves(seen)),
            choices=tuple(choose(options, rule) for rule in ("accuracy", "nll")) if len(options) > 1 else (),
            comparisons=tuple(found for one in seen for found in one.comparisons),
            logits=LogitCounts(computed=self._computed, reused=self._reused),
        )

    def _seen(
        self, of_sets: Sequence[EvaluatedSet], trained_on: Callable[[Candidate, Dataset], int]
    ) -> list[Seen]:
        """Every set under every shift, in their order."""
        seen, described = list[Seen](), iter(of_sets)
        for dataset in self._datasets:
            learnt = {one.label: trained_on(one, dataset) for one in self._candidates}
            with self._reporter.stage(self._title(dataset), len(dataset) * len(self._under)) as advance:
                for some in self._groups(dataset):
                    found = logits_under(
                        self._loader, self._routes, dataset, some, store=self._store, advance=advance
                    )
                    for logits in found:
                        self._computed += logits.computed
                        self._reused += logits.reused
                        on = OnSet(
                            candidates=self._candidates,
                            on=next(described),
                            labels=dataset.labels.numpy(),
                            logits=logits,
                            first=seen[0] if seen else None,
                            trained_on=learnt,
                        )
                        seen.append(on.seen(self._points))
        return seen

    def _groups(self, dataset: Dataset) -> list[list[Shift | None]]:
        """Shifts whose logits fit in memory together."""
        models = {member_key(member) for route in self._routes for member in route.members}
        nbytes = 4 * len(dataset) * len(self._classes) * len(models)
        size = max(1, LOGIT_BYTES // max(1, nbytes))
        return [self._under[start : start + size] for start in range(0, len(self._under), size)]

    def _title(self, dataset: Dataset) -> str:
        models = {member_key(member) for route in self._routes for member in route.members}
        what = str(self._candidates[0].label) if len(models) == 1 else f"{len(models)} models"
        shifts = len(self._under) - 1
        also = f" and under {shifts} shift{'s' if shifts > 1 else ''}" if shifts else ""
        return f"{what} on {dataset.name}{also}"

    def _curves(self, seen: Sequence[Seen]) -> list[Curve]:
        models = {
            one.label: {s.on.name: s.kept[one.label].accuracy for s in seen}
            for one in trained_models(self._candidates)
        }
        images = {s.on.name: s.on.images for s in seen}
        curves = []
        for one in self._candidates:
            if one.label in self._points and one.adapter is not None:
                options = [
                    _option(a, {s.on.name: s.points[one.label][a] for s in seen}) for a in self._alphas
                ]
                curves.append(curve(one.label, one.adapter.method, options, models, images))
        return curves


def _option(name: str | float, kept: Mapping[str, Kept], cost: int = 1) -> Option:
    return Option(
        name=name,
        correct={on: one.correct for on, one in kept.items()},
        nll={on: one.nll.astype(np.float64) for on, one in kept.items()},
        cost=cost,
    )


def _of_one_task(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Each once, answering with the classes of the first, in its order.

    Raises:
        InvalidInput: There is none, or they have other classes.
    """
    if not candidates:
        raise InvalidInput("there is no route to measure", field="route", remedy="name one, such as base")
    task, once = candidates[0].route.task, dict[str, Candidate]()
    for one in candidates:
        if set(map(class_name, one.route.classes)) != set(map(class_name, task.spec.classes)):
            raise InvalidInput(
                f"{one.label} and {candidates[0].label} answer with different classes",
                field="route",
                remedy="measure the routes of one task at a time",
            )
        same = replace(one, route=replace(one.route, task=task))
        if once.setdefault(same.label, same).route != same.route:
            raise InvalidInput(
                f"two different routes are called {same.label}",
                field="route",
                remedy="measure them one at a time",
            )
    return list(once.values())
