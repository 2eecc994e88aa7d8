"""`corolla report`: one page that a person reads about the methods of one task."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corolla import files, flags, reporting, tables
from corolla.evaluation import Measurement
from corolla.flags import epilog
from corolla.names import chosen_task
from corolla.reporting import Reporting
from model_store.place.cache import Cache
from model_store.store import Store
from training.progress import Bars

if TYPE_CHECKING:
    from training.study.report.contents import Contents


@click.command(
    epilog=epilog(
        "corolla report --eval eval.json --out report.html",
        "corolla report --eval eval.json --data photos/val --data sketches/ --out report.html",
        "corolla report --task photos --data photos/val --data sketches/ --out report.html --csv numbers/",
    )
)
@flags.task("The task; may be left out where --eval says it, or where there is only one.")
@click.option(
    "--eval",
    "evaluation",
    type=flags.PATH,
    help="What `corolla evaluate --out` wrote. Without it, --data is measured.",
)
@click.option(
    "--data",
    multiple=True,
    help="Labelled images; may be repeated. With --eval, those that it measured, for thumbnails.",
)
@click.option("--out", type=flags.PATH, required=True, help="The page: one HTML file that needs no other.")
@click.option(
    "--csv", "csv", type=flags.PATH, help="Also write the numbers of each figure and table to this folder."
)
@click.option(
    "--shift",
    "--shifts",
    "shifts",
    multiple=True,
    metavar="SHIFT",
    help="Without --eval: also under NAME:SEVERITY, e.g. fog:3, or a suite such as imagenet-c:3.",
)
@flags.holdout("Only the images that training with this --holdout holds out.  [default: all]", default=None)
@flags.split_seed("The --split-seed of that training.")
@click.option("--limit", type=click.IntRange(1), help="At most so many images of each set.")
@flags.max_pixels
@flags.skip_bad
@flags.columns
@flags.backbone
@flags.precision("Without --eval: what the backbone computes in, as a server's")
@flags.device
@click.option(
    "--logits",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="COROLLA_LOGITS",
    help="Folder in which logits are kept (env: COROLLA_LOGITS).  [default: the user's cache]",
)
@flags.overwrite
@flags.cached_store
@flags.as_json
def report(
    url: str | None,
    cache: Cache | None,
    task: str | None,
    evaluation: Path | None,
    out: Path,
    csv: Path | None,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write a page about the methods of a task.

    One HTML file says which method, which ensemble, what a shift does and what to do, with figures
    and tests from an evaluation, beside the published results of the study. docs/report.md says what each
    figure means.
    """
    files.check_free(out, overwrite)
    store = Store.open(url, cache=cache)
    chosen = task or "" if evaluation is not None else chosen_task(store, task)
    what = Reporting(evaluation=evaluation, measurement=Measurement(task=chosen, **settings))
    _write(reporting.report(store, what, Bars()), out, csv, overwrite, as_json)


def _write(page: "Contents", out: Path, csv: Path | None, overwrite: bool, as_json: bool) -> None:
    """The page, and its numbers where they are asked for."""
    from training.study.report.render import html

    whole = html(page).encode()
    numbers = {f"{data.name}.csv": data.csv().encode() for data in page.data()}
    if csv is not None:
        files.write_folder(csv, numbers, overwrite)
    files.write(out, whole, overwrite)
    absent = {section.heading: section.absent for section in page.sections if section.absent}
    if as_json:
        tables.print_json(
            {
                "path": str(out),
                "bytes": len(whole),
                "sections": [section.key for section in page.sections if section.blocks],
                "absent": absent,
                "csv": [str(csv / name) for name in numbers] if csv is not None else [],
            }
        )
        return
    for heading, why in absent.items():
        click.echo(f"left out: {heading}: {why}")
    if csv is not None:
        click.echo(f"{csv} has the numbers in {len(numbers)} CSV files")
    click.echo(f"{out} is written ({tables.size(len(whole))}); open it in a browser, it needs nothing else")
