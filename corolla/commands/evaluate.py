"""`corolla evaluate`: routes measured on labelled images, without a server."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from corolla import evaluation, flags, tables
from corolla.evaluation import Evaluation
from corolla.flags import epilog
from model_store.store import Store
from training.progress import Bars

if TYPE_CHECKING:
    from training.measure.evaluation import Measured


@click.command(
    epilog=epilog(
        "corolla evaluate --task digits --route lora --route 'lora, ssf' --data digits",
        "corolla evaluate --task digits --route 0.5*lora --data digits --shift noise:3 --json",
        "corolla evaluate --task digits --route lora --data digits --shifts imagenet-c:3",
    )
)
@flags.task("The routes' task.", required=True)
@click.option("--route", "routes", required=True, multiple=True, help="Route or its name; may be repeated.")
@click.option("--data", required=True, multiple=True, help="Labelled images; may be repeated.")
@click.option(
    "--shifts",
    "--shift",
    "shifts",
    multiple=True,
    metavar="SHIFT",
    help="Also under NAME:SEVERITY, e.g. fog:3, or under a suite: imagenet-c (75 shifts), imagenet-c:3 (15).",
)
@flags.holdout("Only the images that training with this --holdout holds out.  [default: all]", default=None)
@flags.split_seed("The --split-seed of that training.")
@click.option("--limit", type=click.IntRange(1), help="At most so many images of each set.")
@flags.max_pixels
@flags.skip_bad
@flags.backbone
@flags.extrapolate
@flags.precision("What the backbone computes in, as a server's")
@flags.device
@flags.store
@flags.as_json
def evaluate(url: str | None, as_json: bool, **settings: Any) -> None:
    """Measure adapters and routes on labelled images.

    No server is needed.
    """
    rows = evaluation.evaluate(Store.open(url), Evaluation(**settings), Bars())
    if as_json:
        tables.print_json([asdict(row) for row in rows])
    else:
        _print(rows)


def _print(rows: "list[Measured]") -> None:
    ensembles = any(len(row.member_accuracies) > 1 for row in rows)
    learnt = any(row.trained_on for row in rows)
    columns = ["route", "data", "images", "precision", "accuracy", "confidence"]
    columns += ["agreement", "best member"] if ensembles else []
    table = tables.table_of(*columns, *(["trained on"] if learnt else []))
    for row in rows:
        cells = [row.route, row.data, str(row.images), row.precision]
        cells += [f"{row.accuracy:.3f}", f"{row.confidence:.3f}"]
        if len(row.member_accuracies) > 1:
            best, accuracy = max(row.member_accuracies.items(), key=lambda item: item[1])
            cells += [f"{row.agreement:.3f}", f"{best} {accuracy:.3f}"]
        elif ensembles:
            cells += ["", ""]
        cells += [str(row.trained_on)] if learnt else []
        table.add_row(*cells)
    tables.print_table(table)
