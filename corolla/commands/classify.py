"""`corolla classify`: send images to a server, and show what it answers. Imports no torch."""

from pathlib import Path
from typing import Any, get_args

import click
from rich.table import Table
from rich.text import Text

from corolla import files, flags, tables
from corolla.connection import document, on_server
from corolla.flags import epilog
from corolla.sending import classified
from model_store.names import printable
from model_store.routes.text import parse_route
from petl_vit.combine import Combine
from petl_vit.errors import InvalidInput
from serving.client.blocking import Client
from serving.client.messages import Priority


@click.command(
    epilog=epilog(
        "corolla classify cat.jpg dog.png --task pets --route lora",
        'corolla classify *.jpg --task pets --route "0.6*lora, ssf" --members',
        "corolla classify cat.jpg --task pets --route best --domain shop-3 --json",
    )
)
@click.argument("images", nargs=-1, required=True, type=flags.PATH)
@flags.route
@flags.task()
@click.option(
    "--domain",
    default="",
    help="Where the images come from, for the metrics; `corolla domains list` has those of the server.",
)
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Classes to show.")
@click.option("--members", is_flag=True, help="Show what each member says.")
@click.option("--ids", is_flag=True, help="Print the prediction ids that feedback takes.")
@flags.extrapolate
@click.option(
    "--priority",
    type=click.Choice(get_args(Priority)),
    help="Its share of a busy engine.  [default: normal]",
)
@on_server
@flags.as_json
def classify(
    images: tuple[Path, ...],
    route: str,
    task: str | None,
    domain: str,
    top: int,
    members: bool,
    ids: bool,
    extrapolate: bool,
    priority: Priority | None,
    client: Client,
    as_json: bool,
) -> None:
    """Classify images by a route.

    Many images are sent in several requests. Exits 1 when an image could not be classified.
    """
    parsed = parse_route(route)
    if not as_json:
        click.echo(f"route read as: {parsed}", err=True)
    response = classified(
        client,
        [(printable(str(path)), _read(path)) for path in images],
        route=str(parsed),
        task=task or "",
        domain=domain,
        top_k=top,
        members=members,
        extrapolate=extrapolate,
        priority=priority,
    )
    if response.domain_note:
        click.echo(f"note: --domain: {response.domain_note}", err=True)
    if as_json:
        tables.print_json(document(response))
    else:
        _print(response, members, ids)
    if any(result.error.code for result in response.results):
        click.get_current_context().exit(1)


def _print(response: Any, members: bool, ids: bool) -> None:
    count = _cascade_of(response)
    table = Table("image", "class", "probability", "agreement", *(["asked"] if count else []))
    for result in response.results:
        if result.error.code:
            table.add_row(result.id, Text(result.error.message, style="red"), "", "")
            continue
        classes = "\n".join(score.class_name for score in result.top)
        probabilities = "\n".join(f"{score.probability:.3f}" for score in result.top)
        asked = [f"{result.members_asked} of {count}"] if count else []
        table.add_row(result.id, classes, probabilities, f"{result.agreement:.2f}", *asked)
        for vote in result.members if members else ():
            said = (
                [vote.top.class_name, f"{vote.top.probability:.3f}"]
                if vote.HasField("top")
                else ["not asked"]
            )
            table.add_row(f"  {vote.member}", *said, style="dim")
    tables.print_table(table)
    for result in response.results if ids else ():
        click.echo(f"{result.id} {result.prediction_id}")
        if result.HasField("label_request"):
            click.echo(f"note: the true label of {result.id} is wished for: corolla feedback", err=True)
    click.echo(f"answered by {response.route}")
    if response.route_note:
        click.echo(f"note: {response.route_note}", err=True)


def _cascade_of(response: Any) -> int:
    """How many members the cascade has that answered; 0 where it was another route."""
    route = parse_route(response.route) if response.route else None
    return len(route.entries) if route is not None and route.combine is Combine.CASCADE else 0


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise InvalidInput(
            f"{path} is a folder",
            field="image",
            remedy=f"name its files ({path}/*), or classify them without a server: corolla predict {path}",
        )
    return files.read(path, "image")
