"""`corolla evaluate`: routes measured on labelled images, without a server."""

from pathlib import Path
from typing import Any

import click

from corolla import evaluation, evaluation_tables, files, flags, tables
from corolla.evaluation import Measurement
from corolla.flags import epilog
from corolla.names import chosen_task
from model_store.place.cache import Cache
from model_store.store import Store
from petl_vit.errors import InvalidInput
from training.progress import Bars

CURVE = tuple(i / 10 for i in range(11))
"""The study's alphas."""


@click.command(
    epilog=epilog(
        "corolla evaluate --data photos/val --data sketches/ --out eval.json",
        "corolla evaluate lora '0.5*lora' 'lora, ssf' --data digits --holdout 0.2 --full",
        "corolla evaluate live --members-of live --data digits --shift noise:3 --shift blur:5",
        "corolla evaluate lora full base --data photos/val --data sketches/ --alpha-curve",
        "corolla evaluate lora --data photos/val --shifts imagenet-c:3",
    )
)
@click.argument("routes", nargs=-1, metavar="[ROUTE]...")
@flags.task("The routes' task; may be left out where there is only one.")
@click.option("--route", "more", multiple=True, help="As the argument; may be repeated.")
@click.option(
    "--members-of", multiple=True, metavar="ROUTE", help="Also each member of this route by itself."
)
@click.option(
    "--data",
    required=True,
    multiple=True,
    help="Labelled images; may be repeated. What is chosen is chosen on the first.",
)
@click.option(
    "--shift",
    "--shifts",
    "shifts",
    multiple=True,
    metavar="SHIFT",
    help="Also under NAME:SEVERITY, e.g. fog:3, or a suite: imagenet-c (75 shifts), imagenet-c:3 (15).",
)
@click.option(
    "--alphas", metavar="A,B,...", help="Also every adapter at these alphas, e.g. 0,0.25,0.5,0.75,1."
)
@click.option("--alpha-curve", is_flag=True, help="As --alphas 0,0.1,...,1.")
@flags.holdout("Only the images that training with this --holdout holds out.  [default: all]", default=None)
@flags.split_seed("The --split-seed of that training.")
@click.option("--limit", type=click.IntRange(1), help="At most so many images of each set.")
@flags.max_pixels
@flags.skip_bad
@flags.columns
@flags.backbone
@flags.extrapolate
@flags.precision("What the backbone computes in, as a server's")
@flags.device
@click.option(
    "--logits",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="COROLLA_LOGITS",
    help="Folder in which logits are kept, so that none is computed twice (env: COROLLA_LOGITS).  "
    "[default: the user's cache]",
)
@click.option("--again", is_flag=True, help="Compute logits that are kept already.")
@click.option("--out", type=flags.PATH, help="Write everything to this JSON file, for `corolla report`.")
@flags.overwrite
@click.option("--full", is_flag=True, help="Print every column and every pair.")
@flags.cached_store
@flags.as_json
def evaluate(
    url: str | None,
    cache: Cache | None,
    task: str | None,
    routes: tuple[str, ...],
    more: tuple[str, ...],
    alphas: str | None,
    alpha_curve: bool,
    out: Path | None,
    overwrite: bool,
    full: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Measure adapters and routes on labelled images.

    ROUTE is what answers, such as `lora` or `0.6*lora, ssf`, or a named route. Without one, the base, every
    adapter of the task and ensembles of them are measured. No server is needed.
    """
    if alphas is not None and alpha_curve:
        raise InvalidInput("--alpha-curve names alphas, too", field="alphas", remedy="give one of the two")
    if out is not None:
        files.check_free(out, overwrite)
    store = Store.open(url, cache=cache)
    what = Measurement(
        task=chosen_task(store, task),
        routes=[*routes, *more],
        alphas=CURVE if alpha_curve else _numbers(alphas),
        **settings,
    )
    found = evaluation.evaluate(store, what, Bars())
    if out is not None:
        files.write(out, found.encode(), overwrite)
    if as_json:
        tables.print_json(found.model_dump(mode="json"))
    else:
        evaluation_tables.show(found, full=full)
        if out is not None:
            click.echo(f"\n{out} has all of it")


def _numbers(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(","))) if text is not None else ()
    except ValueError:
        raise InvalidInput(
            f"{text!r} are not alphas", field="alphas", remedy="write numbers such as 0,0.25,0.5,0.75,1"
        ) from None
