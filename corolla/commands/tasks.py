"""`corolla tasks`: the group, and what imports, lists, shows and deletes what adapters classify.

Its other command is in `refit`.
"""

import sys
from typing import Any

import click
from rich.console import Console

from corolla import flags, tables
from corolla.flags import epilog
from corolla.group import CommandGroup, Lazy
from corolla.task_versions import fitted_to, records_of
from model_store import deletion
from model_store.format.records import TaskSpec
from model_store.routes.algebra import MAX_VERSION
from model_store.store import Store
from petl_vit.errors import Corrupt, InvalidInput

COMMANDS = {
    "refit-head": Lazy(
        target="corolla.commands.refit:refit_head", line="Fit the base head of a task again.", extra="train"
    )
}
_VERSION = click.option(
    "--version", type=click.IntRange(1, MAX_VERSION), help="This version of the task.  [default: the newest]"
)
_ON = click.option("--backbone", help="Backbone, where the task is on several.")


@click.group(cls=CommandGroup, lazy=COMMANDS)
def tasks() -> None:
    """List, show, refit and delete tasks."""


@tasks.command("list", epilog=epilog("corolla tasks list", "corolla tasks list --json"))
@flags.store
@flags.as_json
def list_tasks(url: str | None, as_json: bool) -> None:
    """List the tasks of a store, one line for each backbone: the newest version.

    A damaged one is named after all others are listed.
    """
    store = Store.open(url)
    damaged: list[Corrupt] = []
    records = store.tasks.list(damaged=damaged)
    names = {record.digest: record.name for record in store.backbones.list()}
    rows = [
        (
            record.spec.name,
            str(record.version),
            str(len(record.spec.classes)),
            f"{record.spec.preprocess.image_size} px",
            names.get(record.spec.backbone_digest, record.spec.backbone_digest[:12]),
            fitted_to(record),
            record.digest[:12],
        )
        for record in records
    ]
    tables.listing(
        [record.model_dump(mode="json") for record in records],
        as_json,
        columns=("task", "version", "classes", "size", "backbone", "base head", "digest"),
        rows=rows,
        when_empty="No task yet. Type: corolla train --help",
    )
    if damaged:
        raise damaged[0]


@tasks.command(
    "import",
    epilog=epilog(
        "corolla tasks import pets --backbone clip --embeddings pets.safetensors --classes pets.txt",
        "corolla tasks import pets --backbone clip --embeddings pets.npz --resize crop",
        "corolla tasks import pets --backbone clip --open-clip ViT-B-16:openai --classes pets.txt",
    ),
)
@click.argument("name")
@click.option("--backbone", required=True, help="Image encoder of the model that computed the embeddings.")
@click.option("--classes", type=flags.PATH, help="Text file, one class name a line.")
@click.option(
    "--embeddings",
    type=flags.PATH,
    help="A .safetensors or .npz with class_embeddings [C, E], projection [D, E] and perhaps logit_scale.",
)
@click.option("--open-clip", metavar="MODEL:PRETRAINED", help="Compute them with open_clip instead.")
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="Prompt with {} for the class name, for --open-clip; may be repeated.  [default: a photo of a {}.]",
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
@flags.store
@flags.as_json
def import_task(name: str, backbone: str, url: str | None, as_json: bool, **settings: Any) -> None:
    """Store a zero-shot task: CLIP's projection and a classifier of text embeddings.

    It answers as the route `base` at once, and adapters that are trained for it start from it.
    """
    store = Store.open(url)
    record = store.backbones.get(backbone)

    from model_store.sources import zero_shot
    from petl_vit.architecture import describe

    preprocess = zero_shot.preprocess(
        record.config, **{key: settings.pop(key) for key in ("image_size", "resize", "mean", "std")}
    )
    with Console(stderr=True).status("computing the classifier"):
        source = zero_shot.read(zero_shot.Request(**settings), width=describe(record.config).features)
    spec = TaskSpec.of(
        name=name, classes=source.classes, preprocess=preprocess, backbone_digest=record.digest
    )
    task = store.tasks.put(spec, source.head.tensors(), {"data_digests": [], "zero_shot": True})
    if as_json:
        return tables.print_json(task.model_dump(mode="json"))
    click.echo(f"task   {name}: {len(source.classes)} classes, zero-shot")
    click.echo(f"digest {task.digest}")
    click.echo(f"next   corolla evaluate --task {name} --route base --data DATA")


@tasks.command(
    "show", epilog=epilog("corolla tasks show digits", "corolla tasks show digits --backbone vit-b")
)
@click.argument("task")
@_ON
@_VERSION
@flags.store
@flags.as_json
def show_task(task: str, backbone: str | None, version: int | None, url: str | None, as_json: bool) -> None:
    """Show a task: its classes in order, its preprocessing, its backbone, its base head's images."""
    store = Store.open(url)
    record = records_of(store, task, backbone, version)[-1]
    tables.show(record.model_dump(mode="json"), as_json)


@tasks.command(
    "delete",
    epilog=epilog(
        "corolla tasks delete digits",
        "corolla tasks delete digits --version 2 --yes",
        "corolla tasks delete digits --with-adapters",
    ),
)
@click.argument("task")
@_ON
@click.option(
    "--version", type=click.IntRange(1, MAX_VERSION), help="Only this version of it.  [default: all]"
)
@click.option("--with-adapters", is_flag=True, help="Also its adapters, their aliases and its named routes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@flags.store
@flags.as_json
def delete_task(
    task: str,
    backbone: str | None,
    version: int | None,
    with_adapters: bool,
    yes: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Delete a task for good, or one version of it.

    It is refused while adapters or named routes belong to it, which --with-adapters deletes too, and while a
    named route of another task needs it. Without its newest version, a task is what it was before that.
    """
    store = Store.open(url)
    records = records_of(store, task, backbone, version)
    if version is None and backbone is None:
        records = store.tasks.versions(task)
    planned = deletion.task_deletion(store, records, with_adapters=with_adapters)
    gone = [
        *(f"{record.spec.name} version {record.version}" for record in planned.records),
        *map(str, planned.adapters),
        *(f"route {route.task}/{route.name}" for route in planned.routes),
    ]
    if not yes and not as_json:
        if not sys.stdin.isatty():
            problem = "standard input is not a terminal, so nobody can confirm"
            raise InvalidInput(problem, field="yes", remedy="add --yes")
        click.confirm(f"Delete {', '.join(gone)} for good?", abort=True, err=True)
    deletion.delete_task(store, planned)
    if as_json:
        return tables.print_json({"deleted": gone})
    for name in gone:
        click.echo(f"{name} is deleted")
