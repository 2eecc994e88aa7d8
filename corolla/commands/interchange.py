"""`corolla adapters fold|export|import|delete`: adapters that leave a store, enter it, or are deleted.

What reads tensors is imported once the names are known.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from corolla import files, flags, importing, standings, tables
from corolla.flags import epilog
from corolla.importing import AUTO
from corolla.names import chosen_task
from model_store import deletion
from model_store.format.records import Manifest
from model_store.place.cache import Cache
from model_store.resolution import one_model
from model_store.resolution.versions import Member, ResolvedTerm
from model_store.routes.text import parse_adapter
from model_store.store import Store
from petl_vit.errors import InvalidInput

if TYPE_CHECKING:
    from model_store.interchange.folding import Folded

Format = Literal["archive", "timm", "peft"]
_FORMATS = "archive: one file of corolla; timm: a plain checkpoint; peft: a folder of Hugging Face PEFT"


@click.command(
    epilog=epilog(
        "corolla adapters fold lora --task digits --out lora.safetensors",
        'corolla adapters fold "0.5*lora + 0.5*repadapter" --task digits --out both.safetensors',
        "corolla adapters fold full@prod --alpha 0.6 --task digits --out robust.safetensors",
    )
)
@click.argument("model")
@flags.task()
@click.option("--out", required=True, type=flags.PATH, help="File to write, .safetensors.")
@click.option("--alpha", type=float, default=1.0, show_default=True, help="Times every alpha of the model.")
@flags.extrapolate
@flags.overwrite
@flags.cached_store
@flags.as_json
def fold(
    model: str,
    task: str | None,
    out: Path,
    alpha: float,
    extrapolate: bool,
    overwrite: bool,
    url: str | None,
    cache: Cache | None,
    as_json: bool,
) -> None:
    """Write a model as a plain timm checkpoint.

    MODEL is an adapter, an interpolation such as 0.6*lora, a sum in weight space, or a named route of one of
    these; every method in it has to fold into weights. timm.create_model with strict loading gives the same
    logits from the file alone (docs/interchange.md has the program).
    """
    store = Store.open(url, cache=cache)
    if not extrapolate and not 0 <= alpha <= 1:
        raise InvalidInput(
            f"alpha {alpha:g} lies outside [0, 1]", field="alpha", remedy="or add --extrapolate"
        )
    member = one_model.resolve(store, model, chosen_task(store, task), extrapolate=extrapolate)
    checkpoint = _folded(store, member, alpha)
    files.write(out, checkpoint.encode(), overwrite)
    document = checkpoint.header | {"tensors": len(checkpoint.tensors)}
    _print_written(out, checkpoint.route, document, as_json)


@click.command(
    "export",
    epilog=epilog(
        "corolla adapters export lora --task digits --format archive --out lora.corolla",
        "corolla adapters export lora:3 --task digits --format peft --out lora-peft/",
        "corolla adapters export ssf@prod --task digits --format timm --out ssf.safetensors",
    ),
)
@click.argument("adapter")
@flags.task()
@click.option(
    "--format",
    "kind",
    type=click.Choice(["archive", "timm", "peft"]),
    required=True,
    help=f"{_FORMATS}.",
)
@click.option("--out", required=True, type=flags.PATH, help="File to write; for peft a folder.")
@flags.overwrite
@flags.cached_store
@flags.as_json
def export_adapter(
    adapter: str,
    task: str | None,
    kind: Format,
    out: Path,
    overwrite: bool,
    url: str | None,
    cache: Cache | None,
    as_json: bool,
) -> None:
    """Write one version for another store or library.

    ADAPTER is NAME[:VERSION|@ALIAS]. archive: one file for another corolla. timm: a plain checkpoint, as
    `fold` writes it. peft: a folder for Hugging Face PEFT, for the method lora.
    """
    store = Store.open(url, cache=cache)
    ref = parse_adapter(adapter)
    manifest = store.adapters.resolve(ref, ref.task or chosen_task(store, task))
    _write(store, manifest, kind, out, overwrite)
    _print_written(out, str(manifest), {"adapter": str(manifest), "digest": manifest.digest}, as_json)


@click.command(
    "import",
    epilog=epilog(
        "corolla adapters import lora-peft/ --task digits --name theirs",
        "corolla adapters import lora-peft/ --task pets --name theirs --head base",
        "corolla adapters import lora-peft/ --task pets --name theirs --head classifier.safetensors",
        "corolla adapters import lora.corolla",
        "corolla adapters import full.safetensors --task digits --name full",
        "corolla adapters import model.pt --scale 0.1 --task digits --name fact",
    ),
)
@click.argument("path", type=flags.PATH)
@click.option(
    "--format",
    "kind",
    type=click.Choice([AUTO, "archive", "timm", "peft", "petl-vision"]),
    default=AUTO,
    show_default=True,
    help=f"auto: what PATH holds; {_FORMATS}; petl-vision: FacT of the study's code.",
)
@flags.task("Task to register under.  [default, archive: its own]")
@click.option("--name", help="Name to register under.  [default, archive: its own]")
@click.option("--backbone", help="Backbone, where the task is on several; not for an archive.")
@click.option(
    "--classes",
    type=flags.PATH,
    help="Text file with the head's classes, one a line, where their order is not the task's.",
)
@click.option(
    "--order",
    type=click.Choice(["task", "timm"]),
    help="Order of the head's rows, where the file does not name its classes: the task's, or timm's.",
)
@click.option(
    "--head",
    metavar="base|FILE",
    help="For peft: the task's base head, or a file with a head.  [default: the folder's, else the task's]",
)
@click.option("--prefix", help="For timm: what the names of the tensors begin with.  [default: looked for]")
@click.option(
    "--ema/--no-ema", default=None, help="For timm: averaged or plain weights.  [default: averaged]"
)
@click.option("--scale", type=float, help="For petl-vision: fact_scaler of the run's config.")
@flags.cached_store
@flags.as_json
def import_adapter(path: Path, url: str | None, cache: Cache | None, as_json: bool, **settings: Any) -> None:
    """Register an adapter from another store or library.

    archive brings its task along. peft (a folder), timm (a whole checkpoint, registered with the method full)
    and petl-vision (registered with fact_tt) need a task that is in the store. What was found in PATH, the
    edits that it became and what was left out is said.
    """
    store = Store.open(url, cache=cache)
    imported = importing.import_adapter(store, importing.Arrival(path=path, **settings))
    manifest = imported.manifest
    new = [] if imported.known else [manifest]
    if as_json:
        document = {
            "known": imported.known,
            "format": imported.kind,
            "found": imported.found,
            "edits": [asdict(edit) for edit in imported.edits],
            "notes": list(imported.notes),
            "left_out": list(imported.left_out),
            "names": standings.documents(store, new),
        }
        return tables.print_json(document | manifest.model_dump(mode="json"))
    click.echo(f"found: {imported.found}", err=True)
    click.echo(f"becomes: {imported.maps_to}", err=True)
    for label, lines in (("left out", imported.left_out), ("note", imported.notes)):
        for line in lines:
            click.echo(f"{label}: {line}", err=True)
    outcome = "is registered already" if imported.known else "is registered"
    click.echo(f"{manifest} {outcome}, digest {manifest.digest[:12]}")
    standings.say(store, new)


@click.command(
    "delete",
    epilog=epilog(
        "corolla adapters delete lora:2 --task digits", "corolla adapters delete lora:2 --task digits --yes"
    ),
)
@click.argument("adapter")
@flags.task()
@click.option("--yes", is_flag=True, help="Do not ask.")
@flags.store
@flags.as_json
def delete(adapter: str, task: str | None, yes: bool, url: str | None, as_json: bool) -> None:
    """Delete one version of an adapter for good.

    ADAPTER is [TASK/]NAME:VERSION. It is refused while an alias or a named route means that version. `latest`
    does not hold it: it moves to the newest version that remains, and goes with the last one. The number is
    not used again.
    """
    store = Store.open(url)
    ref = parse_adapter(adapter)
    task_name = ref.task or chosen_task(store, task)
    if ref.version is None:
        known = ", ".join(
            f"{ref.name}:{version}" for version in store.adapters.versions(task_name, ref.name)[-16:]
        )
        raise InvalidInput(
            f"{adapter!r} names no version",
            field="adapter",
            remedy=f"write one of {known}" if known else "see `corolla adapters list`",
        )
    if not yes and not as_json:
        deletion.check(store, task_name, ref.name, ref.version)
        if not sys.stdin.isatty():
            problem = "standard input is not a terminal, so nobody can confirm"
            raise InvalidInput(problem, field="yes", remedy="add --yes")
        click.confirm(f"Delete {task_name}/{ref.name}:{ref.version} for good?", abort=True, err=True)
    deleted = deletion.delete(store, task_name, ref.name, ref.version)
    if as_json:
        return tables.print_json({"deleted": deleted.adapter, "latest": deleted.latest})
    click.echo(f"{deleted.adapter} is deleted")
    remaining = "no version remains" if deleted.latest is None else f"latest is version {deleted.latest}"
    click.echo(f"{remaining}; the number {ref.version} is not used again")


def _write(store: Store, manifest: Manifest, kind: Format, out: Path, overwrite: bool) -> None:
    from model_store.interchange import archive, peft_export

    if kind == "archive":
        files.write(out, archive.write(store, manifest), overwrite)
    elif kind == "timm":
        files.write(out, _folded(store, _single(store, manifest), 1.0).encode(), overwrite)
    else:
        files.write_folder(out, peft_export.write(store, manifest), overwrite)


def _single(store: Store, manifest: Manifest) -> Member:
    term = ResolvedTerm(alpha=1.0, manifest=manifest, task=store.tasks.of(manifest))
    return Member(weight=1.0, terms=(term,))


def _folded(store: Store, member: Member, alpha: float) -> "Folded":
    from model_store.interchange import folding
    from model_store.resolution.loading import Loader

    loader = Loader(store, store.backbones.get(member.task.spec.backbone_digest))
    return folding.folded(loader, member, alpha=alpha)


def _print_written(out: Path, content: str, document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        tables.print_json({"out": str(out)} | document)
    else:
        click.echo(f"{content} is in {out}")
