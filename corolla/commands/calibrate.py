"""`corolla routes calibrate`: the order and thresholds of a cascade, learnt on labelled images."""

from pathlib import Path
from typing import Any

import click
from pydantic import JsonValue

from corolla import calibrating, flags, tables
from corolla.calibrating import Calibration, Judged, Learnt
from corolla.flags import epilog
from corolla.names import chosen_task, route_document
from corolla.references import route_reference, to_measure
from model_store.place.cache import Cache
from model_store.store import Store
from petl_vit.cascade import Score
from training.progress import Bars

_CASCADE = "'cascade(lora, ssf, full; loss<=0.002)'"


@click.command(
    "calibrate",
    epilog=epilog(
        f"corolla routes calibrate {_CASCADE} --as quick --data digits",
        "corolla routes calibrate quick --task digits --data digits --loss 0.005",
        "corolla routes calibrate quick --data photos/val --all-images --domain sketches/",
        f"corolla routes calibrate {_CASCADE} --data digits --dry-run --json",
    ),
)
@click.argument("route")
@flags.task()
@click.option("--data", required=True, help="Labelled images; the held-out share of them is used.")
@click.option(
    "--loss",
    type=click.FloatRange(0, 1, max_open=True),
    help="Accuracy that it may lose against asking all members.  [default: as ROUTE says]",
)
@click.option("--as", "name", metavar="NAME", help="Store it under this name.  [default: the name it has]")
@click.option(
    "--domain", "domains", multiple=True, metavar="DATA", help="Also measure it on these; may be repeated."
)
@click.option(
    "--score",
    type=click.Choice([score.value for score in Score]),
    default=Score.CONFIDENCE.value,
    show_default=True,
    help="What says how settled an answer is.",
)
@click.option("--seed", type=flags.SEED, default=0, show_default=True, help="Of the cross-validation.")
@click.option("--dry-run", is_flag=True, help="Show what is learnt, and store nothing.")
@flags.holdout("Share of the images that training held out.")
@click.option("--all-images", is_flag=True, help="Use all of --data: images that nothing was trained on.")
@flags.split_seed("The --split-seed of that training.")
@flags.max_pixels
@flags.skip_bad
@flags.columns
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
@flags.cached_store
@flags.as_json
def calibrate_route(
    task: str | None,
    score: str,
    dry_run: bool,
    holdout: float,
    all_images: bool,
    url: str | None,
    cache: Cache | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Learn in which order a cascade asks its members, and when its answer is settled.

    ROUTE is the name of a cascade, or its text, which --as then names. The thresholds are those that ask
    fewest members while the accuracy stays within the stated loss of that of all members together, on images
    that neither members nor thresholds were learnt on: the loss and the cost that are shown are
    cross-validated. They are stored with the versions that answer now, and apply to these alone. A running
    server sees it as any change of a named route. A reference of other thresholds is stale from then on; the
    last line says how to measure it again.
    """
    store = Store.open(url, cache=cache)
    what = Calibration(
        task=chosen_task(store, task),
        score=Score(score),
        store=not dry_run,
        holdout=None if all_images else holdout,
        **settings,
    )
    learnt = calibrating.calibrate(store, what, Bars())
    if as_json:
        return tables.print_json(_document(store, learnt, stored=not dry_run))
    _print(learnt)
    if learnt.warning:
        click.echo(learnt.warning)
    if dry_run:
        return click.echo("Nothing is stored.")
    click.echo(f"route {learnt.route.task}/{learnt.route.name} = {learnt.route.route} answers so from now on")
    if remedy := to_measure(learnt.route, route_reference(store, learnt.route)):
        click.echo(remedy)


def _print(learnt: Learnt) -> None:
    cascade, validated = learnt.cascade, learnt.judged[0].outcome
    asked = tables.table_of("asked", "member", "accuracy", f"{cascade.score} to settle", "settled")
    for place, member in enumerate(cascade.order):
        threshold, share = cascade.stages[place].threshold, validated.settled[place]
        settles = "always" if threshold is None else f"{threshold:.3g}"
        accuracy = f"{validated.members[member]:.4f}"
        asked.add_row(str(place + 1), learnt.members[member], accuracy, settles, f"{share:.1%}")
    tables.print_table(asked)
    click.echo()
    table = tables.table_of(
        "images", "number", "cascade", "all members", "best member", "loss", "95 %", "members asked"
    )
    for one in learnt.judged:
        table.add_row(*_row(learnt, one))
    tables.print_table(table)


def _row(learnt: Learnt, one: Judged) -> list[str]:
    found = one.outcome
    best = max(range(len(found.members)), key=found.members.__getitem__)
    low, high = found.interval
    return [
        f"{one.name}, cross-validated" if one.learnt_on else one.name,
        str(found.images),
        f"{found.accuracy:.4f}",
        f"{found.ensemble:.4f}",
        f"{learnt.members[best]} {found.members[best]:.4f}",
        f"{found.loss:.4f}",
        f"{low:.4f} to {high:.4f}",
        f"{found.cost:.2f} of {len(found.members)}, {found.cost_over_ensemble:.0%}",
    ]


def _document(store: Store, learnt: Learnt, *, stored: bool) -> dict[str, JsonValue]:
    cascade = learnt.cascade
    document = route_document(store, learnt.route)
    document["stored"] = stored
    document["reference"] = route_reference(store, learnt.route) if stored else None
    document["warning"] = learnt.warning
    document["asked"] = [learnt.members[place] for place in cascade.order]
    document["judged"] = [_judged(learnt, one) for one in learnt.judged]
    return document


def _judged(learnt: Learnt, one: Judged) -> JsonValue:
    found = one.outcome
    low, high = found.interval
    return {
        "images": one.name,
        "cross_validated": one.learnt_on,
        "number": found.images,
        "accuracy": found.accuracy,
        "ensemble_accuracy": found.ensemble,
        "member_accuracies": dict(zip(learnt.members, found.members, strict=True)),
        "accuracy_loss": found.loss,
        "low": low,
        "high": high,
        "cost": found.cost,
        "cost_over_ensemble": found.cost_over_ensemble,
        "settled": list(found.settled),
    }
