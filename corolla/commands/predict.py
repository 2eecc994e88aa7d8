"""`corolla predict`: many images classified without a server, with a progress bar on stderr.

What computes is imported once sources and route are read.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from corolla import flags, tables
from corolla.flags import epilog, option_of
from model_store.place.cache import Cache
from model_store.routes.text import parse_route
from serving.bulk.sources import listed
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.bulk.run import Summary


@click.command(
    epilog=epilog(
        "corolla predict photos/ --task pets --route lora --out pets.parquet",
        'corolla predict shop.csv --column image --route "0.6*lora, ssf" --out shop.csv.jsonl',
        "corolla predict *.jpg --task pets --route best --out best.csv --probabilities --json",
    )
)
@click.argument("sources", nargs=-1, required=True, type=flags.PATH)
@flags.route
@flags.task()
@click.option(
    "--out",
    required=True,
    type=flags.PATH,
    help="File to write: .parquet, .csv or .jsonl. An unfinished run is saved beside it, in OUT.part.",
)
@click.option("--column", default="path", show_default=True, help="Column of a CSV file that has the paths.")
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes of a row.")
@click.option("--probabilities", is_flag=True, help="Write the probability of every class too.")
@flags.extrapolate
@flags.overwrite
@flags.cached_store
@flags.backbone
@option_of("device", Settings.model_fields["device"])
@option_of("precision", Settings.model_fields["precision"])
@option_of("max_pixels", Settings.model_fields["max_pixels"])
@option_of("max_batch_rows", Settings.model_fields["max_batch_rows"], flag="--batch-rows")
@flags.as_json
def predict(
    sources: tuple[Path, ...],
    route: str,
    task: str | None,
    out: Path,
    column: str,
    top: int,
    probabilities: bool,
    extrapolate: bool,
    overwrite: bool,
    url: str | None,
    cache: Cache | None,
    as_json: bool,
    **settings: object,
) -> None:
    """Classify many images without a server.

    SOURCES are folders, searched with all that is in them, .csv files with a column of paths relative to
    the file, and images. Images are known by their content; a line on stderr counts all other files. An
    image that cannot be used gets a row with its error; then the exit code is 1. A run that was stopped goes
    on where it was when the same command is given again; --overwrite starts anew.
    """
    (images, left_out), parsed = listed(sources, column=column), parse_route(route)
    if not as_json:
        click.echo(f"route read as: {parsed}", err=True)
        if left_out:
            click.echo(f"left out: {left_out}", err=True)
    given = flags.given(click.get_current_context())
    kept = {"cache_bytes": 0} if cache is None else {"cache": str(cache.folder), "cache_bytes": cache.limit}
    settings = {"store": url} | kept | {name: given[name] for name in settings if name in given}
    Settings.read(settings)  # refuses a variable or a value before anything is imported

    from serving.bulk import run

    bulk = run.Bulk(
        sources=images,
        left_out=left_out.counts,
        task=task or "",
        route=parsed,
        top=top,
        probabilities=probabilities,
        extrapolate=extrapolate,
        overwrite=overwrite,
    )
    with _bar(len(images)) as advance:
        summary = run.predict(bulk, out, settings, advance)
    if as_json:
        tables.print_json(asdict(summary))
    else:
        click.echo(_line(summary))
        if summary.route_note:
            click.echo(f"note: {summary.route_note}", err=True)
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
