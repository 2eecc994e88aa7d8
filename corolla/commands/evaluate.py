"""`corolla evaluate`: routes measured on labelled images, without a server.

What computes is imported once the arguments are read.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from corolla import flags, tables
from corolla.flags import epilog
from model_store.resolution.versions import resolve
from model_store.routes.algebra import Route
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.precision import Precision
from training.data import shift
from training.progress import Bars

if TYPE_CHECKING:
    from model_store.resolution.loading import Loader
    from training.data.records import Dataset
    from training.measure.evaluation import Candidate, Measured, Shift


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
    store = Store.open(url)
    record = store.backbones.get(backbone)
    shifted = [None, *map(shift.parse, shift_texts)]
    named = []
    for text in texts:
        route, temperature, beyond = _named(store, task, text, extrapolate)
        resolved = resolve(route, task=task, store=store, backbone_digest=record.digest, extrapolate=beyond)
        named.append((resolved, temperature))

    from model_store.resolution.loading import Loader
    from model_store.resolution.precision import checked, subjects
    from petl_vit.device import chosen_device
    from training.data.dataset import split_dataset, subset
    from training.data.sources import load_dataset
    from training.measure.evaluation import Candidate

    candidates = [Candidate(route=resolved, temperature=t) for resolved, t in named]
    datasets = [load_dataset(source) for source in sources]
    if holdout is not None:
        datasets = [split_dataset(d, holdout=holdout, seed=split_seed)[1] for d in datasets]
    if limit is not None:
        datasets = [subset(d, min(limit, len(d)), 0) for d in datasets]
    bars = Bars()
    exact = Loader(store, record, device=chosen_device(device))
    members = (member for candidate in candidates for member in candidate.route.members)
    loader = checked(Precision(precision), exact, subjects(members), bars.note)
    by_dataset = [_measure(loader, candidates, dataset, shifted, bars) for dataset in datasets]
    measured = [row for of_route in zip(*by_dataset, strict=True) for rows in of_route for row in rows]
    if as_json:
        tables.print_json([asdict(row) for row in measured])
    else:
        _print(measured)


def _measure(
    loader: "Loader",
    candidates: "list[Candidate]",
    dataset: "Dataset",
    shifted: "Sequence[Shift | None]",
    bars: Bars,
) -> "list[list[Measured]]":
    """Every route on one set of images, under every shift."""
    from training.measure.evaluation import measure_all

    what = str(candidates[0].route) if len(candidates) == 1 else f"{len(candidates)} routes"
    total = len(candidates) * len(shifted) * len(dataset)
    with bars.stage(f"{what} on {dataset.name}", total) as advance:
        return measure_all(loader, candidates, dataset, under=shifted, advance=advance)


def _named(store: Store, task: str, text: str, extrapolate: bool) -> tuple[Route, float, bool]:
    """A named route of that name, else the text; with its temperature, and whether it may extrapolate."""
    route = parse_route(text)
    named = store.routes.meant_by(task, route)
    if named is not None:
        return named.parsed(), named.temperature, named.extrapolate
    return route, 1.0, extrapolate


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
