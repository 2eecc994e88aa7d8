"""`corolla adapters`: the group, and what lists, shows and aliases the adapters of a store.

Its other commands are in `interchange`, `signing`, `soup` and `resident`.
"""

from collections.abc import Mapping

import click

from corolla import flags, tables
from corolla.flags import epilog
from corolla.group import CommandGroup, Lazy
from corolla.names import Names, chosen_task, on_names
from corolla.references import adapter_reference, in_words
from model_store.format.records import Manifest
from model_store.names import not_found
from model_store.routes.algebra import MAX_VERSION
from model_store.routes.text import parse_adapter
from model_store.store import Store
from petl_vit.errors import Corrupt

_STORE, _SERVER = "In a store", "In a running server"
_VERSION = click.IntRange(1, MAX_VERSION)
_METRICS = ("accuracy", "base", "precision", "parameters")


def _lazy(target: str, line: str, *, section: str = _STORE, extra: str = "serve") -> Lazy:
    return Lazy(target=f"corolla.commands.{target}", line=line, extra=extra, section=section)


def _in_server(name: str, line: str) -> Lazy:
    return _lazy(f"resident:{name}", line, section=_SERVER, extra="client")


COMMANDS = {
    "list": _lazy("adapters:list_adapters", "List the adapters of a store."),
    "show": _lazy("adapters:show_adapter", "Show the manifest of one version."),
    "alias": _lazy("adapters:set_alias", "Point an alias of an adapter at a version."),
    "soup": _lazy("soup:soup", "Average or merge adapters of one task in weight space.", extra="train"),
    "fold": _lazy("interchange:fold", "Write a model as a plain timm checkpoint."),
    "export": _lazy("interchange:export_adapter", "Write one version for another store or library."),
    "import": _lazy("interchange:import_adapter", "Register an adapter from another store or library."),
    "sign": _lazy("signing:sign", "Sign one version, so that servers may require it."),
    "verify": _lazy("signing:verify", "Check one version, and who vouches for it."),
    "delete": _lazy("interchange:delete", "Delete one version of an adapter for good."),
    "resident": _in_server("resident", "List the adapters in a server's memory."),
    "load": _in_server("load", "Load an adapter into a server."),
    "unload": _in_server("unload", "Free the memory that an adapter takes in a server."),
    "pin": _in_server("pin", "Load an adapter into a server, and never evict it."),
    "unpin": _in_server("unpin", "Let a server evict a pinned adapter."),
    "reload": _in_server("reload_names", "Make a server read its store's names again."),
}


@click.group(cls=CommandGroup, lazy=COMMANDS)
def adapters() -> None:
    """List, alias, load, fold, move, delete adapters."""


@click.command("list", epilog=epilog("corolla adapters list", "corolla adapters list --task digits --json"))
@flags.task_filter
@flags.store
@flags.as_json
def list_adapters(task: str | None, url: str | None, as_json: bool) -> None:
    """List the adapters of a store.

    Each with its newest version, all aliases, and that version's held-out metrics. A damaged manifest,
    alias or task is named after all others are listed.
    """
    store = Store.open(url)
    adapters, damaged = [], list[Corrupt]()
    versions_of_task = store.tasks.versions(task, damaged=damaged)
    if task is not None and not versions_of_task and not damaged:
        known = {record.spec.name for record in store.tasks.list()}
        raise not_found(f"no task {task!r}", task, known, field="task", when_empty="corolla train --help")
    of_task = {record.digest: record.version for record in versions_of_task}
    for task_name, name in store.adapters.list(task):
        versions = store.adapters.versions(task_name, name)
        try:
            newest = store.adapters.manifest(task_name, name, versions[-1])
            adapters.append((newest, versions, store.adapters.aliases(task_name, name)))
        except Corrupt as error:
            damaged.append(error)
    documents = [
        manifest.model_dump(mode="json")
        | {
            "versions": list(versions),
            "aliases": dict(aliases),
            "task_version": of_task.get(manifest.task_digest),
        }
        for manifest, versions, aliases in adapters
    ]
    tables.listing(
        documents,
        as_json,
        columns=("task", "task version", "adapter", "method", "newest", "aliases", *_METRICS),
        rows=[
            (
                m.task,
                str(of_task.get(m.task_digest, "")),
                m.name,
                m.method,
                str(m.version),
                _aliases(a),
                *_metrics(m),
            )
            for m, _, a in adapters
        ],
        when_empty="No adapter yet. Type: corolla train --help",
    )
    if damaged:
        raise damaged[0]


@click.command("show", epilog=epilog("corolla adapters show lora", "corolla adapters show digits/lora@prod"))
@click.argument("adapter")
@flags.task()
@flags.store
@flags.as_json
def show_adapter(adapter: str, task: str | None, url: str | None, as_json: bool) -> None:
    """Show the manifest of one version.

    ADAPTER is [TASK/]NAME[:VERSION|@ALIAS].
    """
    store = Store.open(url)
    ref = parse_adapter(adapter)
    manifest = store.adapters.resolve(ref, ref.task or chosen_task(store, task))
    aliases = store.adapters.aliases(manifest.task, manifest.name)
    pointing = sorted(alias for alias, version in aliases.items() if version == manifest.version)
    of_task = {record.digest: record.version for record in store.tasks.versions(manifest.task)}
    task_version = of_task.get(manifest.task_digest)
    document = manifest.model_dump(mode="json") | {"aliases": list(pointing), "task_version": task_version}
    reference = adapter_reference(store, manifest)
    tables.show(document | {"reference": reference if as_json else in_words(reference)}, as_json)


@click.command(
    "alias",
    epilog=epilog(
        "corolla adapters alias lora prod 3 --task digits",
        "corolla adapters alias digits/lora prod 3 --expected 2 --server localhost:50051",
    ),
)
@click.argument("name")
@click.argument("alias")
@click.argument("version", type=_VERSION)
@click.option(
    "--expected", type=_VERSION, metavar="VERSION", help="Move it only if it points at this version now."
)
@flags.task()
@on_names
@flags.as_json
def set_alias(
    name: str, alias: str, version: int, expected: int | None, task: str | None, names: Names, as_json: bool
) -> None:
    """Point an alias of an adapter at a version.

    With --server, the server loads and verifies that version first, and answers by it from its next request
    on; servers over a store follow within their --refresh-s.
    """
    moved = names.set_alias(name, alias, version, task=task, expected=expected)
    if as_json:
        return tables.print_json(
            {
                "task": moved.task,
                "adapter": moved.adapter,
                "alias": alias,
                "version": version,
                "before": moved.before,
                "notes": list(moved.notes),
            }
        )
    was = "" if moved.before in (None, version) else f", was {moved.before}"
    click.echo(f"{moved.task}/{moved.adapter}@{alias} is version {version}{was}")
    for note in moved.notes:
        click.echo(note)


def _aliases(aliases: Mapping[str, int]) -> str:
    return ", ".join(f"{alias}={version}" for alias, version in sorted(aliases.items()))


def _metrics(manifest: Manifest) -> tuple[str, str, str, str]:
    """Held-out accuracy, the base head's, what both were computed in, and the number of trained parameters.

    Each is empty where it is not known.
    """

    def shown(name: str, form: str) -> str:
        return format(manifest.metrics[name], form) if name in manifest.metrics else ""

    precision = str(manifest.metrics_precision) if "accuracy" in manifest.metrics else ""
    return shown("accuracy", ".3f"), shown("base_accuracy", ".3f"), precision, shown("parameters", ",.0f")
