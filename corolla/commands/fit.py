"""`corolla routes fit`: the temperature of a named route, fitted on labelled images."""

from typing import Any

import click

from corolla import fitting, flags, tables
from corolla.flags import epilog
from corolla.names import chosen_task, route_document
from corolla.references import route_reference, to_measure
from model_store.place.cache import Cache
from model_store.store import Store
from training.progress import Bars


@click.command(
    "fit",
    epilog=epilog(
        "corolla routes fit both --task digits --data digits",
        "corolla routes fit both --data photos/val --all-images",
    ),
)
@click.argument("name")
@flags.task()
@click.option("--data", required=True, help="Labelled images; the held-out share of them is used.")
@flags.holdout("Share of the images that training held out.")
@click.option("--all-images", is_flag=True, help="Use all of --data: images that nothing was trained on.")
@flags.split_seed("The --split-seed of that training.")
@flags.max_pixels
@flags.skip_bad
@flags.columns
@flags.precision("What the backbone computes in, as a server's")
@flags.device
@flags.cached_store
@flags.as_json
def fit_route(
    name: str,
    task: str | None,
    data: str,
    holdout: float,
    all_images: bool,
    url: str | None,
    cache: Cache | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Fit the temperature of a named route on labelled images.

    It is stored with the versions that answer now, and applied to these alone. A reference that was measured
    at another temperature is stale from then on; the last line says how to measure it again.
    """
    store = Store.open(url, cache=cache)
    share = None if all_images else holdout
    what = fitting.Fitting(task=chosen_task(store, task), name=name, data=data, holdout=share, **settings)
    fitted = fitting.fit(store, what, Bars())
    reference = route_reference(store, fitted.route)
    if as_json:
        document = route_document(store, fitted.route)
        return tables.print_json(document | {"images": fitted.images, "reference": reference})
    click.echo(
        f"route {fitted.route.task}/{name} answers by {fitted.before.resolved} at temperature "
        f"{fitted.route.temperature:.4g}, was {fitted.before.temperature:.4g}; "
        f"fitted on {fitted.images} images"
    )
    if remedy := to_measure(fitted.route, reference):
        click.echo(remedy)
