"""`corolla predict`: bulk classification for people, with a bar on stderr.

What computes is imported once sources and route are read.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model_store.routes.text import parse_route
from petl_vit.precision import CHOICES, MEANING
from serving.bulk.sources import listed
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.bulk.run import Summary


@click.command(
    "predict",
    epilog="\b\nExamples:\n  corolla predict photos/ --task pets --route lora --out pets.parquet\n"
    '  corolla predict shop.csv --column image --route "0.6*lora, ssf" --out shop.csv.jsonl\n'
    "  corolla predict *.jpg --task pets --route best --out best.csv --probabilities --json",
)
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--route", required=True, help="What answers: `lora`, `0.6*lora, ssf`, or a named route.")
@click.option("--task", default="", help="The task.  [default: the only one]")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write: .parquet, .csv or .jsonl. An unfinished run is kept beside it, in OUT.part.",
)
@click.option("--column", default="path", show_default=True, help="Column of a CSV file that has the paths.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes of a row.")
@click.option("--probabilities", is_flag=True, help="Write the probability of every class too.")
@click.option("--extrapolate", is_flag=True, help="Allow alpha outside [0, 1].")
@click.option("--overwrite", is_flag=True, help="Replace OUT, and forget an unfinished run.")
@click.option(
    "--store", metavar="STORE", help="Folder or URL of the store.  [default: the user's data folder]"
)
@click.option("--backbone", help="Its name or digest.  [default: the only one stored]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where it runs.  [default: auto]")
@click.option(
    "--precision",
    type=click.Choice(CHOICES),
    help=f"What it computes in; {MEANING}.  [default: auto]",
)
@click.option("--batch-rows", type=click.IntRange(1), help="Rows of one forward.  [default: 32]")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as one JSON document.")
def predict_command(
    sources: tuple[Path, ...],
    route: str,
    task: str,
    out: Path,
    column: str,
    top: int,
    probabilities: bool,
    extrapolate: bool,
    overwrite: bool,
    store: str | None,
    backbone: str | None,
    device: str | None,
    precision: str | None,
    batch_rows: int | None,
    as_json: bool,
) -> None:
    """Classify many images by one route, without a server.

    SOURCES are folders, searched with all that is in them, .csv files with a column of paths relative to
    the file, and images. An image that cannot be used gets a row with its error; then the exit code is 1. A
    run that was stopped goes on where it was when the same command is given again.
    """
    found, read = listed(sources, column=column), parse_route(route)
    if not as_json:
        click.echo(f"route read as: {read}", err=True)
    settings = {
        "store": store,
        "backbone": backbone,
        "device": device,
        "precision": precision,
        "max_batch_rows": batch_rows,
    }
    Settings.read(settings)  # refuses a variable or a value before anything is imported

    from serving.bulk.run import Bulk, predict

    bulk = Bulk(
        sources=found,
        task=task,
        route=read,
        top=top,
        probabilities=probabilities,
        extrapolate=extrapolate,
        overwrite=overwrite,
    )
    with _bar(len(bulk.sources)) as advance:
        summary = predict(bulk, out, settings, advance)
    click.echo(json.dumps(asdict(summary)) if as_json else _line(summary))
    if summary.failed:
        click.get_current_context().exit(1)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal."""
    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("images", total=total)
        yield lambda n: progress.advance(task, n)


def _line(summary: "Summary") -> str:
    done = summary.images - summary.resumed
    notes = [f"{summary.images} images by {summary.route}", f"{done} in {summary.seconds:.1f} s"]
    notes.append(f"computed in {summary.precision}")
    if summary.resumed:
        notes.append(f"{summary.resumed} done before")
    if summary.failed:
        notes.append(f"{summary.failed} failed")
    return f"{summary.out}: {', '.join(notes)}"
