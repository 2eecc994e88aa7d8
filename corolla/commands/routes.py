"""`corolla routes`: named routes, in a store or through a running server."""

import click
from pydantic import JsonValue

from corolla import flags, tables
from corolla.flags import epilog
from corolla.group import CommandGroup
from corolla.names import Names, chosen_task, on_names
from model_store.routes.text import explain_route
from model_store.store import Store
from petl_vit.errors import InvalidInput


@click.group(cls=CommandGroup)
def routes() -> None:
    """Name routes, and show how a route is read."""


@routes.command(
    "put",
    epilog=epilog(
        'corolla routes put both "lora, ssf" --task digits',
        'corolla routes put robust "0.6*full@prod" --task digits --temperature 1.3',
        'corolla routes put both "lora, ssf" --task digits --server localhost:50051',
    ),
)
@click.argument("name")
@click.argument("text")
@flags.task()
@click.option("--temperature", default="default", metavar="T|default", help="Divides the combined logits.")
@flags.extrapolate
@on_names
@flags.as_json
def put_route(
    name: str,
    text: str,
    task: str | None,
    temperature: str,
    extrapolate: bool,
    names: Names,
    as_json: bool,
) -> None:
    """Save the route TEXT under NAME, replacing any other, and say how it was read."""
    named = names.put_route(
        name, text, task=task, temperature=_temperature(temperature), extrapolate=extrapolate
    )
    if as_json:
        return tables.print_json(named.route.model_dump(mode="json") | {"shadows_adapter": named.shadows})
    for line in named.lines():
        click.echo(line)


@routes.command(
    "list", epilog=epilog("corolla routes list --json", "corolla routes list --server localhost:50051")
)
@flags.task_filter
@on_names
@flags.as_json
def list_routes(task: str | None, names: Names, as_json: bool) -> None:
    """List the named routes."""
    documents = names.routes(task)
    columns = ["task", "name", "route", "temperature"]
    # A server knows of each whether it can answer it.
    columns += ["problem"] if any(document.get("problem") for document in documents) else []
    tables.listing(
        documents,
        as_json,
        columns=columns,
        rows=[[_cell(document.get(column)) for column in columns] for document in documents],
        when_empty='No named route yet. Type: corolla routes put both "lora, ssf" --task TASK',
    )


@routes.command("show", epilog=epilog("corolla routes show both --task digits"))
@click.argument("name")
@flags.task()
@flags.store
@flags.as_json
def show_route(name: str, task: str | None, url: str | None, as_json: bool) -> None:
    """Show a named route and how it is read."""
    store = Store.open(url)
    route = store.routes.get(chosen_task(store, task), name)
    meaning = list(explain_route(route.parsed(), route.task))
    tables.show(route.model_dump(mode="json") | {"meaning": meaning}, as_json)


@routes.command(
    "delete",
    epilog=epilog(
        "corolla routes delete both --task digits",
        "corolla routes delete both --task digits --server localhost:50051",
    ),
)
@click.argument("name")
@flags.task()
@on_names
@flags.as_json
def delete_route(name: str, task: str | None, names: Names, as_json: bool) -> None:
    """Delete a named route; the adapters stay."""
    task_name = names.delete_route(name, task=task)
    if as_json:
        return tables.print_json({"task": task_name, "name": name})
    click.echo(f"route {task_name}/{name} is deleted")


def _temperature(text: str) -> float | None:
    if text == "default":
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is not a number", field="temperature", remedy="give a number above 0, or default"
        ) from None


def _cell(value: JsonValue) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value or "")
