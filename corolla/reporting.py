"""A report of one task: from an evaluation, or from images that are measured now, to the contents of a page.

What computes is imported once the names are known to exist.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from corolla.candidates import Chooser
from corolla.evaluation import Measurement, evaluate, images
from model_store.format.records import Manifest
from model_store.routes.text import parse_adapter
from model_store.store import Store
from petl_vit.errors import CorollaError, InvalidInput, NotFound
from training.measure.document import EvaluatedRoute, Evaluation, load_evaluation

if TYPE_CHECKING:
    from training.progress import Reporter
    from training.study.report.contents import Contents, Gallery
    from training.study.report.disputed import Voted

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where adapters are measured between frozen and trained, if there is a shifted set and no evaluation."""


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """What is to be reported.

    Attributes:
        evaluation: File of `corolla evaluate --out`; None measures now.
        measurement: What is measured then; with an evaluation, where its images are, for thumbnails.
    """

    evaluation: Path | None
    measurement: Measurement


def report(store: Store, what: Reporting, reporter: "Reporter") -> "Contents":
    """The contents of the page.

    Raises:
        NotFound: The evaluation, the task or the data do not exist, or the task has no adapter.
        InvalidInput: The evaluation is of another task, or is something else; there is nothing to report.
    """
    found = _evaluation(store, what, reporter)
    manifests, notes = _manifests(store, found)
    gallery, why = None, "No images were given: `--data` with the evaluated images shows them."
    if what.measurement.data:
        try:
            gallery, why = _gallery(store, what.measurement, found, reporter)
        except CorollaError as error:  # a page without thumbnails is better than none
            why = f"They cannot be shown: {error}."

    from training.study.report.build import contents
    from training.study.report.material import Material

    return contents(
        Material(evaluation=found, manifests=manifests, disputed=gallery, no_disputed=why, notes=tuple(notes))
    )


def _evaluation(store: Store, what: Reporting, reporter: "Reporter") -> Evaluation:
    task = what.measurement.task
    if what.evaluation is not None:
        if what.measurement.shifts:
            raise InvalidInput(
                "an evaluation has the shifts that it was measured under",
                field="shift",
                remedy="leave it out, or give --shift to `corolla evaluate`, or measure now without --eval",
            )
        found = load_evaluation(what.evaluation)
        if task and found.task != task:
            raise InvalidInput(
                f"{what.evaluation} is of the task {found.task}, not of {task}",
                field="evaluation",
                remedy=f"report --task {found.task}, or evaluate {task}",
            )
        return found
    if not store.adapters.list(task):
        raise NotFound(
            f"the task {task} has no adapter to report",
            field="task",
            remedy=f"train one with `corolla train lora --data IMAGES --task {task}`",
        )
    if not what.measurement.data:
        raise InvalidInput(
            "there is nothing to report from",
            field="evaluation",
            remedy="name a file that `corolla evaluate --out` wrote, or measure now with --data IMAGES",
        )
    several = len(what.measurement.data) > 1 or bool(what.measurement.shifts)
    alphas = what.measurement.alphas or (ALPHAS if several else ())
    return evaluate(store, replace(what.measurement, alphas=alphas), reporter)


def _manifests(store: Store, found: Evaluation) -> tuple[dict[str, Manifest], list[str]]:
    """The manifests of single adapters by the labels of their routes, and which the store lacks."""
    manifests, gone = dict[str, Manifest](), list[str]()
    for route in found.routes:
        if route.kind == "adapter":
            try:
                ref = parse_adapter(route.text)
                manifests[route.label] = store.adapters.resolve(ref, found.task)
            except CorollaError:
                gone.append(route.text)
    if not gone:
        return manifests, []
    return manifests, [
        f"Not in this store any more, so without the history of their training: {', '.join(gone)}."
    ]


def _gallery(
    store: Store, what: Measurement, found: Evaluation, reporter: "Reporter"
) -> "tuple[Gallery | None, str]":
    """Thumbnails of the most disputed images; or None, and why."""
    from training.study.report.disputed import most_disputed
    from training.study.report.material import short_names

    models = [route for route in found.routes if route.kind in ("base", "adapter")]
    sets = _voted(store, replace(what, task=found.task), found, models, reporter)
    if not sets:
        names = ", ".join(one.name for one in found.sets if one.shift is None)
        return None, (
            f"The images of --data are none of the evaluated sets ({names}); give --data, --holdout, "
            "--split-seed and --limit as to `corolla evaluate`."
        )
    short = short_names([route.label for route in found.routes])
    made = most_disputed(sets, [short[route.label] for route in models], found.classes)
    return (None, made) if isinstance(made, str) else (made, "")


def _voted(
    store: Store, what: Measurement, found: Evaluation, models: list[EvaluatedRoute], reporter: "Reporter"
) -> "list[Voted]":
    """What single models say of the images that were evaluated; stored logits are not computed again."""
    record = store.backbones.get(found.backbone.digest)
    chooser = Chooser(
        store=store, task=found.task, backbone=record.digest, extrapolate=False, note=lambda text: None
    )
    candidates = chooser.chosen([route.text for route in models])

    import numpy as np

    from model_store.resolution.loading import Loader
    from petl_vit.device import chosen_device, use_threads
    from petl_vit.precision import Precision
    from training.data.dataset import align_classes
    from training.measure.logit_store import LogitStore, default_folder
    from training.measure.logits import logits_of_routes
    from training.study.report.disputed import Voted

    use_threads()
    routes = [candidate.route for candidate in candidates]
    loader = Loader(
        store, record, device=chosen_device(what.device), precision=Precision(found.machine.precision)
    )
    kept = LogitStore(what.logits or default_folder())
    evaluated = {one.digest: one.name for one in found.sets if one.shift is None}
    sets = []
    for dataset in images(store, what, candidates, reporter):
        if dataset.digest in evaluated:
            with reporter.stage(f"answers on {evaluated[dataset.digest]}", len(dataset)) as advance:
                logits = logits_of_routes(loader, routes, dataset, store=kept, advance=advance)
            votes = np.stack([logits.stacked(route).columns[0].argmax(axis=1) for route in routes], axis=1)
            aligned = align_classes(dataset, found.classes)
            sets.append(Voted(on=evaluated[dataset.digest], dataset=aligned, votes=votes))
    return sets
