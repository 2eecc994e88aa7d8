"""`corolla export`: models as files for other runtimes.

What reads tensors is imported once the names are known.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from corolla import files, flags, tables
from corolla.flags import epilog
from corolla.group import CommandGroup
from corolla.names import chosen_task
from model_store.format.records import Manifest, TaskRecord
from model_store.place.cache import Cache
from model_store.resolution import one_model
from model_store.resolution.answering import answering
from model_store.resolution.versions import ResolvedTerm
from model_store.routes.text import parse_adapter
from model_store.store import Store
from petl_vit.errors import InvalidInput, NotFound, Unsupported

if TYPE_CHECKING:
    from serving.onnx.export import Exported


@click.group(cls=CommandGroup)
def export() -> None:
    """Write models for ONNX Runtime."""


@export.command(
    epilog=epilog(
        'corolla export onnx "0.6*lora" --task digits --out lora.onnx',
        "corolla export onnx --bank --task digits --out digits.onnx",
        "corolla export onnx --bank lora:3 ssf@prod --task digits --out two.onnx",
    )
)
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--bank", is_flag=True, help="All adapters of the task, or those named, behind one backbone.")
@flags.task()
@click.option("--out", required=True, type=flags.PATH, help="File to write, .onnx.")
@flags.extrapolate
@flags.overwrite
@flags.cached_store
@flags.as_json
def onnx(
    models: tuple[str, ...],
    bank: bool,
    task: str | None,
    out: Path,
    extrapolate: bool,
    overwrite: bool,
    url: str | None,
    cache: Cache | None,
    as_json: bool,
) -> None:
    """Write one MODEL as an ONNX file, or with --bank the adapters of a task.

    MODEL is an adapter, an interpolation such as 0.6*lora, a sum in weight space, or a named route of one of
    these; the file takes preprocessed images and gives logits, which a named route's temperature divides.
    With --bank each row of a run names its image and its adapters, so that one run mixes them. Classes,
    preprocessing and slots are in the .json that is written beside it; --json prints the same.
    """
    if out.suffix == ".json":
        raise InvalidInput("the document beside it ends in .json", field="out", remedy="name it .onnx")
    beside = out.with_suffix(".json")
    for path in (out, beside):
        files.check_free(path, overwrite)
    store = Store.open(url, cache=cache)
    task_name = chosen_task(store, task)
    exported = _banked(store, task_name, models) if bank else _plain(store, task_name, models, extrapolate)
    files.write(out, exported.graph, overwrite)
    document = json.dumps(exported.document, ensure_ascii=False, indent=2)
    files.write(beside, f"{document}\n".encode(), overwrite)
    if as_json:
        return tables.print_json({"out": str(out)} | exported.document)
    for name in exported.document.get("left_out", ()):
        click.echo(f"note: {name} stacks with nothing and is left out; export it by itself", err=True)
    if exported.document.get("route_note"):
        click.echo(f"note: {exported.document['route_note']}", err=True)
    click.echo(f"{_subject(exported)} in {out}, and what it takes in {beside}")


def _plain(store: Store, task: str, models: Sequence[str], extrapolate: bool) -> "Exported":
    if len(models) != 1:
        raise InvalidInput(
            f"{len(models)} models are named, and the file holds one",
            field="models",
            remedy="name one, join them with + into one sum in weight space, or add --bank",
        )
    member = one_model.resolve(store, models[0], task, extrapolate=extrapolate)
    named = one_model.named_by(store, models[0], task)

    from model_store.resolution.loading import Loader
    from serving.onnx import export as onnx_export

    loader = Loader(store, store.backbones.get(member.task.spec.backbone_digest))
    exported = onnx_export.plain(loader, member)
    if named is None:
        return exported
    now = answering(store, named, member.task.spec.backbone_digest)
    of_name = {"named": f"{task}/{named.name}", "temperature": now.temperature, "route_note": now.note}
    return replace(exported, document=exported.document | of_name)


def _banked(store: Store, task: str, names: Sequence[str]) -> "Exported":
    manifests = [store.adapters.resolve(ref, ref.task or task) for ref in map(parse_adapter, names)]
    if not names:
        manifests = [_latest(store, task, name) for _, name in store.adapters.list(task)]
    if not manifests:
        raise NotFound(f"task {task} has no adapter", field="bank", remedy="train one with `corolla train`")
    if manifests[0].task != task:
        raise InvalidInput(
            f"{manifests[0]} is not of task {task!r}", field="task", remedy=f"give {manifests[0].task}"
        )
    task_record = store.tasks.of(manifests[0])
    backbone = store.backbones.get(task_record.spec.backbone_digest)
    terms = [_term(manifest, task_record) for manifest in manifests]

    from model_store.resolution.loading import Loader
    from serving.onnx import export as onnx_export

    exported = onnx_export.banked(Loader(store, backbone), task_record, terms)
    if names and exported.document["left_out"]:
        raise Unsupported(
            f"{', '.join(exported.document['left_out'])} stacks with nothing, so it has no slot",
            field="bank",
            remedy="export it by itself, without --bank",
        )
    return exported


def _latest(store: Store, task: str, name: str) -> Manifest:
    return store.adapters.resolve(parse_adapter(name), task)


def _term(manifest: Manifest, task: TaskRecord) -> ResolvedTerm:
    if manifest.task_digest != task.digest:
        raise InvalidInput(
            f"{manifest} belongs to another task or backbone than {task.spec.name}'s",
            field="bank",
            remedy="name adapters of one task",
        )
    return ResolvedTerm(alpha=1.0, manifest=manifest, task=task)


def _subject(exported: "Exported") -> str:
    if "route" in exported.document:
        return f"{exported.document['route']} is"
    count = sum(map(len, exported.document["lanes"]))
    return f"{count} adapter{'s are' if count != 1 else ' is'}"
