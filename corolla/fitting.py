"""Fitting the temperature of a named route on labelled images, for the versions that answer now.

What computes is imported once the names are known to exist.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from model_store.format.records import NamedRoute
from model_store.resolution.answering import Answering, answering, calibrate_command, exact_versions
from model_store.store import Store
from petl_vit.combine import Combine
from petl_vit.errors import Unsupported
from petl_vit.image_input import MAX_PIXELS
from petl_vit.precision import Precision

if TYPE_CHECKING:
    from training.progress import Reporter


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """Which route, on what.

    Attributes:
        data: Labelled images, as `training.data.sources.load_dataset` opens them.
        holdout: Only the images that training with this share holds out; None is all.
        max_pixels, skip_bad, image_column, label_column: How images are read, as
            `training.data.reading.Reading` says.
        device, precision: What the backbone runs on, and computes in.
    """

    task: str
    name: str
    data: str
    holdout: float | None = 0.2
    split_seed: int = 0
    max_pixels: int = MAX_PIXELS
    skip_bad: bool = False
    image_column: str = ""
    label_column: str = ""
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A route with the temperature that was fitted, and what it was before.

    Attributes:
        route: As it is stored now.
        before: How it answered before.
        images: How many it was fitted on.
    """

    route: NamedRoute
    before: Answering
    images: int


def fit(store: Store, what: Fitting, reporter: "Reporter") -> Fitted:
    """Fits a route's temperature and stores it with the versions that it was fitted for.

    Raises:
        NotFound: There is no such route, or no such data.
        InvalidInput: The images do not tell a temperature, or the route was trained on most of them.
        Unsupported: The members' answers are not combined by their logits, or it is a cascade.
        Conflict: The route was put again meanwhile.
    """
    named = store.routes.get(what.task, what.name)
    now = answering(store, named)
    if now.resolved.combine is Combine.CASCADE:
        raise Unsupported(
            f"{what.name} is a cascade, which has a temperature for each of its stages",
            field="route",
            remedy=f"learn them with its thresholds: {calibrate_command(named)}",
        )

    from model_store.resolution.loading import Loader
    from model_store.resolution.precision import checked, subjects
    from petl_vit.device import chosen_device
    from training.data.reading import reading_of
    from training.data.sources import load_measured
    from training.measure.logit_store import LogitStore, default_folder
    from training.measure.route_temperature import fit_route
    from training.run.training_data import unlearnt_by

    reading = reading_of(what, reporter, measured=True)
    dataset = load_measured(what.data, holdout=what.holdout, seed=what.split_seed, reading=reading)
    dataset = unlearnt_by(
        store,
        now.resolved.terms(),
        dataset,
        reporter.note,
        field="data",
        remedy="give images that none of them was trained on",
    )
    record = store.backbones.get(now.resolved.task.spec.backbone_digest)
    exact = Loader(store, record, device=chosen_device(what.device))
    loader = checked(Precision(what.precision), exact, subjects(now.resolved.members), reporter.note)
    with reporter.stage(f"{now.resolved} on {dataset.name}", len(dataset)) as advance:
        logits = LogitStore(default_folder())
        temperature = fit_route(loader, now.resolved, dataset, store=logits, advance=advance)
    fields = dict(named) | {"temperature": temperature, "versions": exact_versions(now.resolved)}
    route = NamedRoute.of(**fields)
    store.routes.put(route, expected=named)
    return Fitted(route=route, before=now, images=len(dataset))
