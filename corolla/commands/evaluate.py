"""`corolla evaluate`: routes measured on labelled images, without a server.

What computes is imported once the arguments are read.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from corolla import flags, tables
from corolla.evaluation import Evaluation, measure
from corolla.flags import epilog
from model_store.store import Store
from training.progress import Bars

if TYPE_CHECKING:
    from training.measure.evaluation import Measured


@click.command(
    epilog=epilog(
        "corolla evaluate --task digits --route lora --route 'lora, ssf' --data digits",
        "corolla evaluate --task digits --route 0.5*lora --data digits --shift noise:3 --json",
    )
)
@flags.task("The routes' task.", required=True)
@click.option("--route", "texts", required=True, multiple=True, help="Route or named route; may be repeated.")
@click.option("--data", "sources", required=True, multiple=True, help="Labelled images; may be repeated.")
@click.option("--shift", "shift_texts", multiple=True, help="Also under NAME:SEVERITY, e.g. noise:3.")
@flags.holdout("Only the images that training with this --holdout holds out.  [default: all]", default=None)
@flags.split_seed("The --split-seed of that training.")
@click.option("--limit", type=click.IntRange(1), help="At most so many images of each set.")
@flags.backbone
@flags.extrapolate
@flags.precision("What the backbone computes in, as a server's")
@flags.device
@flags.store
@flags.as_json
def evaluate(
    task: str,
    texts: tuple[str, ...],
    sources: tuple[str, ...],
    shift_texts: tuple[str, ...],
    holdout: float | None,
    split_seed: int,
    limit: int | None,
    backbone: str | None,
    extrapolate: bool,
    precision: str,
    device: str,
    url: str | None,
    as_json: bool,
) -> None:
    """Measure adapters and routes on labelled images.

    No server is needed.
    """
    what = Evaluation(
        routes=texts,
        data=sources,
        task=task,
        shifts=shift_texts,
        holdout=holdout,
        split_seed=split_seed,
        limit=limit,
        extrapolate=extrapolate,
        backbone=backbone,
        device=device,
        precision=precision,
    )
    measured = measure(Store.open(url), what, Bars())
    if as_json:
        tables.print_json([asdict(row) for row in measured])
    else:
        _print(measured)


def _print(rows: "list[Measured]") -> None:
    ensembles = any(len(row.member_accuracies) > 1 for row in rows)
    columns = ["route", "data", "images", "precision", "accuracy", "confidence"]
    table = tables.table_of(*columns, *(["agreement", "best member"] if ensembles else []))
    for row in rows:
        cells = [row.route, row.data, str(row.images), row.precision]
        cells += [f"{row.accuracy:.3f}", f"{row.confidence:.3f}"]
        if len(row.member_accuracies) > 1:
            best, accuracy = max(row.member_accuracies.items(), key=lambda item: item[1])
            cells += [f"{row.agreement:.3f}", f"{best} {accuracy:.3f}"]
        table.add_row(*cells)
    tables.print_table(table)
