"""`corolla routes reference`: what monitoring compares a named route with, measured on labelled images."""

from pathlib import Path
from typing import Any

import click

from corolla import flags, referencing, tables
from corolla.flags import epilog
from corolla.names import chosen_task
from model_store.place.cache import Cache
from model_store.store import Store
from petl_vit.errors import InvalidInput
from training.progress import Bars


@click.command(
    "reference",
    epilog=epilog(
        "corolla routes reference live --task digits",
        "corolla routes reference live --data photos/val --all-images",
        "corolla routes reference --all",
    )
    + "\n\nExit codes: 0 every route has a reference; 1 some could not be measured; 2 a mistake.",
)
@click.argument("name", required=False)
@flags.task()
@click.option("--all", "every", is_flag=True, help="Every named route, of --task or of all tasks.")
@click.option(
    "--data",
    help="Labelled images, of which the held-out share is used.  [default: what the route's first adapter "
    "held out]",
)
@flags.holdout("Share of the images of --data that training held out.")
@click.option("--all-images", is_flag=True, help="Use all of --data: images that nothing was trained on.")
@flags.split_seed("The --split-seed of that training.")
@flags.max_pixels
@flags.skip_bad
@flags.columns
@flags.precision("What the backbone computes in, as a server's")
@flags.device
@click.option(
    "--again",
    is_flag=True,
    help="With --all: measure also the routes whose reference is of what answers now.",
)
@click.option(
    "--logits",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="COROLLA_LOGITS",
    help="Folder in which logits are kept, so that none is computed twice (env: COROLLA_LOGITS).  "
    "[default: the user's cache]",
)
@flags.cached_store
@flags.as_json
def reference_route(
    name: str | None,
    task: str | None,
    every: bool,
    holdout: float,
    all_images: bool,
    url: str | None,
    cache: Cache | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Measure a named route on labelled images, as monitoring compares its traffic with.

    Accuracy, agreements, confidences, thresholds, class counts and frozen features are kept in the store, for
    the versions and the temperature that answer now. An adapter by itself has its own from training.
    """
    if (name is None) == (not every):
        raise InvalidInput("name one route, or give --all", field="all")
    store = Store.open(url, cache=cache)
    what = referencing.Referencing(
        task=task if every else chosen_task(store, task),
        name=name,
        holdout=None if all_images else holdout,
        **settings,
    )
    measured = referencing.measure(store, what, Bars())
    if as_json:
        tables.print_json([reference.model_dump(mode="json") for reference in measured.references])
    else:
        for line in (said := referencing.lines(measured)):
            click.echo(line)
        if not said:
            click.echo('No named route yet. Type: corolla routes put both "lora, ssf" --task TASK')
    if measured.failed:
        click.get_current_context().exit(1)
