"""Learning when a cascade's answer is settled, on labelled images, for the versions that answer now.

What computes is imported once the names are known to exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.format.records import Cascade, CascadeMeasured, NamedRoute
from model_store.resolution import named_route as naming
from model_store.resolution.answering import exact_versions, versions_now
from model_store.resolution.versions import ResolvedRoute
from model_store.routes.algebra import Route
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.cascade import Score
from petl_vit.combine import Combine
from petl_vit.errors import InvalidInput
from petl_vit.image_input import MAX_PIXELS
from petl_vit.precision import Precision

if TYPE_CHECKING:
    from model_store.resolution.loading import Loader
    from petl_vit.combine import Array
    from training.data.records import Dataset
    from training.measure.cascade import LearntCascade
    from training.measure.cascade_validation import Outcome
    from training.progress import Reporter

_UNNAMED = "unnamed"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Which cascade, on what.

    Attributes:
        route: The name of a cascade, or its text.
        name: What it is stored under; None is the name that it has.
        data: Labelled images, as `training.data.sources.load_dataset` opens them.
        loss: How much accuracy it may lose; None is what its text states.
        domains: Further sets, on which it is measured and not learnt.
        score: What says how settled an answer is.
        seed: Decides the folds of the cross-validation.
        store: Whether to store what is learnt.
        holdout: Only the images that training with this share holds out; None is all.
        max_pixels, skip_bad, image_column, label_column: How images are read, as
            `training.data.reading.Reading` says.
        device, precision: What the backbone runs on, and computes in.
        logits: Folder in which logits are kept; None is the user's.
        again: Whether to compute what is stored there already.
    """

    task: str
    route: str
    data: str
    name: str | None = None
    loss: float | None = None
    domains: Sequence[str] = ()
    score: Score = Score.CONFIDENCE
    seed: int = 0
    store: bool = True
    extrapolate: bool = False
    holdout: float | None = 0.2
    split_seed: int = 0
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    image_column: str = ""
    label_column: str = ""
    device: str = "auto"
    precision: str = "auto"
    logits: Path | None = None
    again: bool = False


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the cascade did on one set.

    Attributes:
        learnt_on: Whether it is the set it was learnt on; then it is cross-validated.
    """

    name: str
    outcome: "Outcome"
    learnt_on: bool = False


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A cascade with its order and thresholds.

    Attributes:
        route: As it is stored.
        members: With versions, in the order of the route.
        judged: On the set it was learnt on, then on each domain.
        warning: What the images cannot tell; else empty.
    """

    route: NamedRoute
    members: tuple[str, ...]
    cascade: "LearntCascade"
    judged: tuple[Judged, ...]
    warning: str = ""


def calibrate(store: Store, what: Calibration, reporter: "Reporter") -> Learnt:
    """Learns a cascade's order and thresholds and stores them with the versions that they are for.

    Raises:
        NotFound: There is no such route, no such adapter or no such data.
        InvalidInput: It is not a cascade or has no name, the images are too few, its members were trained on
            most of them, or the loss cannot be met on them.
        Conflict: The route was put again meanwhile.
    """
    route, before = _route(store, what)
    learnt = _learnt(store, what, route, versions_now(store, route), reporter)
    if what.store:
        store.routes.put(learnt.route, expected=before)
    return learnt


def _learnt(
    store: Store, what: Calibration, route: NamedRoute, resolved: ResolvedRoute, reporter: "Reporter"
) -> Learnt:
    from training.measure.cascade_validation import STEPS, calibrated, outcome

    images = _images(store, what, resolved, what.data, reporter, holdout=what.holdout, field="data")
    others = [
        _images(store, what, resolved, source, reporter, holdout=None, field="domain")
        for source in what.domains
    ]
    loader = _loader(store, what, resolved, reporter)
    logits = _logits(loader, what, resolved, images, reporter)
    loss = route.parsed().loss
    assert loss is not None, "a cascade has a loss"
    with reporter.stage("learning order and thresholds", STEPS) as advance:
        found = calibrated(
            logits,
            images.labels.numpy(),
            loss=loss,
            score=what.score,
            seed=what.seed,
            copies=images.fingerprints,
            advance=advance,
        )
    judged = [Judged(name=images.name, outcome=found.validated, learnt_on=True)]
    for domain in others:
        of_domain = _logits(loader, what, resolved, domain, reporter)
        judged.append(
            Judged(name=domain.name, outcome=outcome(found.cascade, of_domain, domain.labels.numpy()))
        )
    return Learnt(
        route=with_thresholds(route, resolved, loss, found.cascade, found.validated, images.digest),
        members=tuple(map(str, resolved.members)),
        cascade=found.cascade,
        judged=tuple(judged),
        warning=_warning(loss, len(images)),
    )


def _loader(store: Store, what: Calibration, resolved: ResolvedRoute, reporter: "Reporter") -> "Loader":
    from model_store.resolution.loading import Loader
    from model_store.resolution.precision import checked, subjects
    from petl_vit.device import chosen_device, use_threads

    use_threads()
    record = store.backbones.get(resolved.task.spec.backbone_digest)
    exact = Loader(store, record, device=chosen_device(what.device))
    return checked(Precision(what.precision), exact, subjects(resolved.members), reporter.note)


def _route(store: Store, what: Calibration) -> tuple[NamedRoute, NamedRoute | None]:
    """The cascade as it will be stored, without thresholds, and the named route that it has to replace."""
    given = parse_route(what.route)
    named = store.routes.meant_by(what.task, given)
    stated = _stated(given if named is None else named.parsed(), what)
    if named is not None and what.name in (None, named.name):
        return NamedRoute.of(**dict(named) | {"route": str(stated), "cascade": None}), named
    if what.name is None and what.store:
        raise InvalidInput(
            "the cascade has no name yet, and thresholds are stored under one",
            field="as",
            remedy="give it one, such as --as quick, or only look with --dry-run",
        )
    new = naming.check(
        store,
        task=what.task,
        name=what.name or _UNNAMED,
        text=str(stated),
        extrapolate=what.extrapolate or (named is not None and named.extrapolate),
    )
    return NamedRoute.of(**dict(new.route) | {"cascade": None}), None


def _stated(route: Route, what: Calibration) -> Route:
    """The cascade with the loss that is asked for."""
    if route.combine is not Combine.CASCADE:
        members = ", ".join(str(entry.model) for entry in route.entries)
        some = members if len(route.entries) > 1 else f"{members}, OTHER"
        raise InvalidInput(
            f"{what.route} is not a cascade",
            field="route",
            remedy=f"write 'cascade({some}; loss<=0.002)' and name it with --as",
        )
    return route if what.loss is None else replace(route, loss=what.loss)


def _images(
    store: Store,
    what: Calibration,
    resolved: ResolvedRoute,
    source: str,
    reporter: "Reporter",
    *,
    holdout: float | None,
    field: str,
) -> "Dataset":
    """Images that no member was trained on, with the labels of the route's classes."""
    from training.data.dataset import align_classes
    from training.data.reading import reading_of
    from training.data.sources import load_measured
    from training.run.training_data import unlearnt_by

    reading = reading_of(what, reporter, measured=True)
    dataset = load_measured(source, holdout=holdout, seed=what.split_seed, reading=reading)
    dataset = unlearnt_by(
        store,
        resolved.terms(),
        dataset,
        reporter.note,
        field=field,
        remedy="give images that none of them was trained on: the --data, --holdout and --split-seed of "
        "their training",
    )
    return align_classes(dataset, resolved.classes)


def _logits(
    loader: "Loader", what: Calibration, resolved: ResolvedRoute, dataset: "Dataset", reporter: "Reporter"
) -> "Array":
    """What all members say, [n, K, C], computed where it is not stored."""
    from training.measure.logit_store import LogitStore, default_folder
    from training.measure.logits import logits_of_routes

    kept = LogitStore(what.logits or default_folder(), again=what.again)
    with reporter.stage(f"{len(resolved.members)} members on {dataset.name}", len(dataset)) as advance:
        logits = logits_of_routes(loader, [resolved], dataset, store=kept, advance=advance)
    if kept.problem:
        reporter.note(kept.problem)
    return logits.of(resolved)


def with_thresholds(
    route: NamedRoute,
    resolved: ResolvedRoute,
    loss: float,
    cascade: "LearntCascade",
    validated: "Outcome",
    data: str,
) -> NamedRoute:
    """The route with what was learnt, for the versions that it was learnt for."""
    from training.measure.cascade_validation import FOLDS

    measured = CascadeMeasured(
        accuracy_loss=validated.loss,
        cost=validated.cost,
        images=validated.images,
        data=data,
        folds=FOLDS,
    )
    stored = Cascade(
        score=cascade.score, order=cascade.order, stages=cascade.stages, loss=loss, measured=measured
    )
    fields = {
        "cascade": stored,
        "temperature": cascade.stages[-1].temperature,
        "versions": exact_versions(resolved),
    }
    return NamedRoute.of(**dict(route) | fields)


def _warning(loss: float, images: int) -> str:
    from training.measure.cascade_validation import images_to_tell, least_told

    least = least_told(images)
    if loss >= least:
        return ""
    more = f"; {images_to_tell(loss):,} would" if loss > 0 else ""
    return (
        f"{images:,} images cannot tell a loss of {loss:g} from one of {least:.4f}{more}: the stated loss is "
        "kept on the average of images like these, and the interval says what they tell"
    )
