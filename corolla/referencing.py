"""Measuring the references of routes: from names to records in the store.

What computes is imported once the names are known to exist.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from model_store.format.records import Manifest, NamedRoute
from model_store.format.reference import Reference
from model_store.resolution.answering import Answering, answering
from model_store.resolution.reference import of_named
from model_store.store import Store
from petl_vit.errors import CorollaError, InvalidInput
from petl_vit.image_input import MAX_PIXELS
from petl_vit.precision import Precision
from training.measure.candidate import Candidate

if TYPE_CHECKING:
    from model_store.resolution.loading import Loader
    from training.data.reading import Reading
    from training.data.records import Dataset
    from training.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Referencing:
    """Which routes, on what.

    Attributes:
        task: Of the routes; None with no `name` is every task.
        name: Of one named route; None is all of them.
        data: Labelled images; None is what the route's first adapter held out when it was trained.
        holdout: Only the images of `data` that training with this share holds out; None is all.
        max_pixels, skip_bad, image_column, label_column: How images are read, as
            `training.data.reading.Reading` says.
        again: Of all routes, also those measured that have a reference of what answers now.
        logits: Folder in which logits are kept; None is the user's.
    """

    task: str | None
    name: str | None
    data: str | None = None
    holdout: float | None = 0.2
    split_seed: int = 0
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    image_column: str = ""
    label_column: str = ""
    device: str = "auto"
    precision: str = "auto"
    again: bool = False
    logits: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What came of measuring routes.

    Attributes:
        current: Routes that were left alone, as their references are of what answers now; `task/name`.
        failed: Routes that could not be measured; `task/name`.
    """

    references: Sequence[Reference]
    current: Sequence[str] = ()
    failed: Sequence[str] = ()


def measure(store: Store, what: Referencing, reporter: "Reporter") -> Measurements:
    """Measures routes and keeps their references; of all routes, one that cannot be measured is noted.

    Of all routes, those with a reference of what answers now are left alone, unless `what` names data or asks
    for them again.

    Raises:
        NotFound: There is no such route, or no such data.
        InvalidInput: No data is named and training did not record its own, or the route was trained on most
            of it, or its classes are others.
        Unsupported: The route cannot be answered.
    """
    if what.name is not None:
        assert what.task is not None
        return Measurements(
            references=[_measured(store, store.routes.get(what.task, what.name), what, reporter, {})]
        )
    references, current, failed = list[Reference](), list[str](), list[str]()
    loaders: dict[str, Loader] = {}
    for route in store.routes.list(what.task):
        name = f"{route.task}/{route.name}"
        try:
            if what.data is None and not what.again and _is_current(store, route):
                current.append(name)
            else:
                references.append(_measured(store, route, what, reporter, loaders))
        except CorollaError as error:
            failed.append(name)
            reporter.note(f"route {name} is not measured: {error}")
    if failed and not references and not current:
        raise InvalidInput("none of the named routes could be measured", field="all")
    return Measurements(references=references, current=current, failed=failed)


def _is_current(store: Store, route: NamedRoute) -> bool:
    """Whether a route has a reference of what it answers now."""
    found = of_named(store, route)
    return found.reference is not None and not found.stale


def _measured(
    store: Store, named: NamedRoute, what: Referencing, reporter: "Reporter", loaders: "dict[str, Loader]"
) -> Reference:
    """Measures one route; `loaders` are those of the backbones that were read before, by digest."""
    now = answering(store, named)

    from model_store.resolution.loading import Loader
    from model_store.resolution.precision import checked, subjects
    from petl_vit.device import chosen_device, use_threads
    from training.measure.logit_store import LogitStore, default_folder
    from training.measure.route_reference import references

    dataset = _dataset(store, now, what, reporter)
    use_threads()
    digest = now.resolved.task.spec.backbone_digest
    if digest not in loaders:
        loaders[digest] = Loader(store, store.backbones.get(digest), device=chosen_device(what.device))
    members = subjects(now.resolved.members)
    loader = checked(Precision(what.precision), loaders[digest], members, reporter.note)
    one = Candidate(route=now.resolved, temperature=now.temperature, cascade=now.cascade, name=named.name)
    logits = LogitStore(what.logits or default_folder())
    with reporter.stage(f"{named.name} on {dataset.name}", 2 * len(dataset)) as advance:
        (reference,) = references(loader, [one], dataset, store=logits, advance=advance)
    store.references.put(reference)
    return reference


def _dataset(store: Store, now: Answering, what: Referencing, reporter: "Reporter") -> "Dataset":
    """Images that no adapter of the route was trained on."""
    from training.data.reading import reading_of
    from training.data.sources import load_measured
    from training.run.training_data import unlearnt_by

    reading = reading_of(what, reporter, measured=True)
    first = next((t.manifest for t in now.resolved.terms() if t.manifest is not None), None)
    if what.data is not None:
        dataset = load_measured(what.data, holdout=what.holdout, seed=what.split_seed, reading=reading)
    else:
        dataset = _held_out_by(first, reading)
    dataset = unlearnt_by(
        store,
        now.resolved.terms(),
        dataset,
        reporter.note,
        field="data",
        remedy="give images that none of them was trained on",
    )
    if what.data is None and first is not None and dataset.digest != first.training["heldout_digest"]:
        reporter.note(f"{dataset.name} has other images than {first} was measured on when it was trained")
    return dataset


def _held_out_by(manifest: Manifest | None, reading: "Reading") -> "Dataset":
    """What an adapter held out when it was trained, from where it says that it was."""
    from training.data.sources import load_dataset, load_measured

    training: Mapping[str, object] = {} if manifest is None else manifest.training
    data, heldout, holdout, seed = (training.get(n) for n in ("data", "heldout", "holdout", "split_seed"))
    if isinstance(heldout, str) and holdout is None:
        return load_dataset(heldout, reading=reading)
    if isinstance(data, str) and isinstance(holdout, float | int) and isinstance(seed, int):
        return load_measured(data, holdout=float(holdout), seed=seed, reading=reading)
    whose = "the route has no adapter" if manifest is None else f"{manifest} does not say what it held out"
    raise InvalidInput(whose, field="data", remedy="name labelled images with --data")


def lines(measured: Measurements) -> list[str]:
    """What people should know of routes that were measured, one line for each, and of those that were not."""
    said = [
        f"route {r.route.task}/{r.route.name} = {r.route.text}: accuracy {r.accuracy:.3f} at confidence "
        f"{r.confidence.mean:.3f} on {r.images} images of {r.data.name}"
        + (f"; no estimate should be made of it: {r.no_estimate}" if r.no_estimate else "")
        for r in measured.references
    ]
    if measured.current:
        said.append(
            f"measured before and current: {', '.join(measured.current)}; --again measures them again"
        )
    if measured.failed:
        said.append(f"not measured: {', '.join(measured.failed)}")
    return said
