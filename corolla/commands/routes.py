"""`corolla routes`: named routes, in a store or through a running server."""

from collections.abc import Iterator, Mapping
from datetime import UTC

import click
from pydantic import JsonValue

from corolla import flags, tables
from corolla.flags import epilog
from corolla.group import CommandGroup, Lazy
from corolla.names import Names, chosen_task, on_names, route_document
from corolla.references import in_words, route_reference
from model_store.collections.history import KEPT
from model_store.format.records import Audit, Cascade, NamedRoute
from model_store.routes.text import explain_route, parse_route
from model_store.store import Store
from petl_vit.errors import InvalidInput

COMMANDS = {
    "fit": Lazy(
        target="corolla.commands.fit:fit_route",
        line="Fit the temperature of a named route on labelled images.",
        extra="train",
    ),
    "calibrate": Lazy(
        target="corolla.commands.calibrate:calibrate_route",
        line="Learn on labelled images when a cascade's answer is settled.",
        extra="train",
    ),
    "reference": Lazy(
        target="corolla.commands.reference:reference_route",
        line="Measure what monitoring compares a named route with.",
        extra="train",
    ),
}


@click.group(cls=CommandGroup, lazy=COMMANDS)
def routes() -> None:
    """Name routes, and show how a route is read."""


@routes.command(
    "put",
    epilog=epilog(
        'corolla routes put both "lora, ssf" --task digits',
        'corolla routes put robust "0.6*full@prod" --task digits --temperature 1.3',
        'corolla routes put deep "0.2..1*lora" --task digits',
        'corolla routes put late "0.3[0-5]*lora + 0.9[6-11]*lora" --task digits',
        "corolla routes put nightly lora --task digits --follow",
        'corolla routes put quick "cascade(lora, ssf, full; loss<=0.002)" --task digits',
        'corolla routes put both "lora, ssf" --task digits --server localhost:50051',
    ),
)
@click.argument("name")
@click.argument("text")
@flags.task()
@click.option("--temperature", default="default", metavar="T|default", help="Divides the combined logits.")
@flags.extrapolate
@click.option("--follow", is_flag=True, help="Pin no version: what is trained next under a name answers.")
@on_names
@flags.as_json
def put_route(
    name: str,
    text: str,
    task: str | None,
    temperature: str,
    extrapolate: bool,
    follow: bool,
    names: Names,
    as_json: bool,
) -> None:
    """Save the route TEXT under NAME, replacing any other, and say how it was read.

    Adapters without a version are pinned to the version that is the newest now, so that training does not
    change what NAME answers; aliases stay aliases. The temperature belongs to the versions of now: when an
    alias moves, or with --follow an adapter is trained again, it is no longer applied.

    An alpha may name blocks, counted from 0 (0.9[6-11]*lora), or grow from the first block to the last, as
    LiNeS has it (0.2..1*lora).

    A cascade asks its members one after another until the answer is settled; requests for it are refused
    until `corolla routes calibrate` has learnt when that is.
    """
    named = names.put_route(
        name,
        text,
        task=task,
        temperature=_temperature(temperature),
        extrapolate=extrapolate,
        follow=follow,
    )
    if as_json:
        return tables.print_json(
            named.route.model_dump(mode="json")
            | {
                "shadows_adapter": named.shadows,
                "answers": named.resolved,
                "follows": list(named.route.follows),
                "notes": list(named.notes),
            }
        )
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
    columns = ["task", "name", "route", "answers", "temperature", "follows"]
    columns += [
        name for name in ("asks", "note", "problem") if any(document.get(name) for document in documents)
    ]
    tables.listing(
        documents,
        as_json,
        columns=columns,
        rows=[[_cell(document, column) for column in columns] for document in documents],
        when_empty='No named route yet. Type: corolla routes put both "lora, ssf" --task TASK',
    )


@routes.command("show", epilog=epilog("corolla routes show both --task digits"))
@click.argument("name")
@flags.task()
@flags.store
@flags.as_json
def show_route(name: str, task: str | None, url: str | None, as_json: bool) -> None:
    """Show a named route, how it is read, how it answers now, and what monitoring compares it with."""
    store = Store.open(url)
    route = store.routes.get(chosen_task(store, task), name)
    meaning: list[JsonValue] = list(explain_route(route.parsed(), route.task))
    document = route_document(store, route) | {"meaning": meaning}
    reference = route_reference(store, route)
    document["reference"] = reference if as_json else in_words(reference)
    if route.cascade is None or as_json:
        return tables.show(document, as_json)
    del document["cascade"]
    tables.show(document, as_json)
    click.echo("\n".join(_stages(route, route.cascade)))


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


@routes.command(
    "history",
    epilog=epilog(
        "corolla routes history",
        "corolla routes history live --task digits",
        "corolla routes history lora@prod --task digits --json",
    ),
)
@click.argument("name", required=False)
@flags.task("Task of NAME; without a name, only changes of that task.")
@click.option(
    "--limit",
    type=click.IntRange(1, KEPT),
    default=50,
    show_default=True,
    help="The newest so many changes.",
)
@on_names
@flags.as_json
def show_history(name: str | None, task: str | None, limit: int, names: Names, as_json: bool) -> None:
    """Show who changed what a route or an alias means, when, from what and to what.

    NAME is a named route, whose history includes the moves of its aliases, or ADAPTER@ALIAS; without it all
    changes are shown. The newest come last.
    """
    records = names.history(name, task=task, limit=limit)
    tables.listing(
        [record.model_dump(mode="json") for record in records],
        as_json,
        columns=("when (UTC)", "name", "from", "to", "by", "note"),
        rows=[_history_row(record) for record in records],
        when_empty="Nothing has been changed yet.",
    )


def _stages(route: NamedRoute, cascade: Cascade) -> Iterator[str]:
    """How a cascade asks, one line for each member, and what that did where it was learnt."""
    entries = route.parsed().entries
    for place, stage in zip(cascade.order, cascade.stages, strict=True):
        settles = "always" if stage.threshold is None else f"from {cascade.score} {stage.threshold:.4g}"
        yield f"asks {entries[place]}: settled {settles}, at temperature {stage.temperature:.4g}"
    measured = cascade.measured
    yield (
        f"cross-validated on {measured.images:,} images: accuracy loss {measured.accuracy_loss:.4f}, "
        f"{measured.cost:.2f} of {len(cascade.order)} members asked"
    )


def _history_row(record: Audit) -> tuple[str, ...]:
    before = _meaning(record.before, record.before_versions, record.before_temperature)
    after = _meaning(record.after, record.after_versions, record.after_temperature)
    at = record.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return (at, record.name, before or "-", after or "-", record.by, record.note)


def _meaning(text: str, versions: tuple[str, ...], temperature: float | None) -> str:
    """A route with the versions that its names meant, where it leaves them open; or a version."""
    if not text or temperature is None:
        return text
    now = f" ({', '.join(versions)})" if parse_route(text).moving else ""
    return f"{text}{now}" + (f" at temperature {temperature:.4g}" if temperature != 1 else "")


def _temperature(text: str) -> float | None:
    if text == "default":
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is not a number", field="temperature", remedy="give a number above 0, or default"
        ) from None


def _cell(document: Mapping[str, JsonValue], column: str) -> str:
    value = document.get(column)
    if column == "temperature" and document.get("answers_at_temperature") is not None:
        value = document["answers_at_temperature"]
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value or "")
