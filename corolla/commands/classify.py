"""`corolla classify` and `corolla feedback`: the clients for people. Imports no torch."""

from pathlib import Path
from typing import Any, get_args

import click
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from corolla.server_flags import as_json_option, on_server, print_json, print_table, read_file
from model_store.routes.text import parse_route
from petl_vit.errors import InvalidInput
from serving.client.blocking import Client
from serving.client.messages import Priority, status_name


@click.command(
    epilog="\b\nExamples:\n  corolla classify cat.jpg dog.png --task pets --route lora\n"
    '  corolla classify *.jpg --task pets --route "0.6*lora, ssf" --members\n'
    "  corolla classify cat.jpg --task pets --route best --domain shop-3 --json"
)
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--route", required=True, help="What answers: `lora`, `0.6*lora, ssf`, or a named route.")
@click.option("--task", default="", help="The task.  [default: the only one]")
@click.option("--domain", default="", help="Where the images come from, for the metrics.")
@click.option("--top", type=click.IntRange(1), default=1, show_default=True, help="Classes to show.")
@click.option("--members", is_flag=True, help="Show what each member says.")
@click.option("--ids", is_flag=True, help="Print the prediction ids that feedback takes.")
@click.option("--extrapolate", is_flag=True, help="Allow alpha outside [0, 1].")
@click.option(
    "--priority",
    type=click.Choice(get_args(Priority)),
    help="Its share of a busy engine.  [default: normal]",
)
@on_server
@as_json_option
def classify(
    images: tuple[Path, ...],
    route: str,
    task: str,
    domain: str,
    top: int,
    members: bool,
    ids: bool,
    extrapolate: bool,
    priority: Priority | None,
    client: Client,
    as_json: bool,
) -> None:
    """Classify images by a route. Exits 1 when an image could not be classified."""
    read = parse_route(route)
    if not as_json:
        click.echo(f"route read as: {read}", err=True)
    response = client.classify(
        [read_file(path, "image") for path in images],
        route=str(read),
        task=task,
        domain=domain,
        top_k=top,
        members=members,
        extrapolate=extrapolate,
        ids=[str(path) for path in images],
        priority=priority,
    )
    if as_json:
        print_json(response)
    else:
        _print(response, members, ids)
    if any(result.error.code for result in response.results):
        click.get_current_context().exit(1)


@click.command(epilog="\b\nExample:\n  corolla feedback PREDICTION_ID cat PREDICTION_ID dog")
@click.argument("labels", nargs=-1, required=True)
@on_server
@as_json_option
def feedback(labels: tuple[str, ...], client: Client, as_json: bool) -> None:
    """Send true labels for earlier predictions: pairs of PREDICTION_ID and CLASS.

    Exits 1 when a label was not counted.
    """
    if len(labels) % 2:
        raise InvalidInput("a prediction id without its class", field="labels", remedy="write ID CLASS pairs")
    response = client.feedback(zip(labels[::2], labels[1::2], strict=True))
    if as_json:
        print_json(response)
    else:
        for result in response.results:
            outcome = ("correct" if result.correct else "incorrect") if not result.message else result.message
            click.echo(f"{status_name(result)}: {outcome}")
    if any(status_name(result) != "counted" for result in response.results):
        click.get_current_context().exit(1)


def _print(response: Any, members: bool, ids: bool) -> None:
    table = Table("image", "class", "probability", "agreement")
    for result in response.results:
        if result.error.code:
            # Names come from files and classes; a bracket in one is no markup.
            table.add_row(escape(result.id), Text(result.error.message, style="red"), "", "")
            continue
        classes = "\n".join(score.class_name for score in result.top)
        probabilities = "\n".join(f"{score.probability:.3f}" for score in result.top)
        table.add_row(escape(result.id), escape(classes), probabilities, f"{result.agreement:.2f}")
        for vote in result.members if members else ():
            row = [f"  {vote.member}", escape(vote.top.class_name), f"{vote.top.probability:.3f}", ""]
            table.add_row(*row, style="dim")
    print_table(table)
    for result in response.results if ids else ():
        click.echo(f"{result.id} {result.prediction_id}")
    click.echo(f"answered by {response.route}")
