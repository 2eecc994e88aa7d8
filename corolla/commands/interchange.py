"""`corolla adapters fold|export|import|delete`: adapters that leave a store, enter it, or go.

Files are written whole or not at all, and none is replaced unasked. What reads tensors is imported once the
names are known.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from corolla.store_names import chosen_task
from model_store import deletion
from model_store.format.records import Manifest
from model_store.place.whole_file import write_whole
from model_store.resolution import one_model
from model_store.resolution.versions import Member, ResolvedTerm
from model_store.routes.text import parse_adapter
from model_store.store import Store
from petl_vit.errors import Conflict, CorollaError, InvalidInput, NotFound

if TYPE_CHECKING:
    from model_store.interchange.folding import Folded

_store = click.option(
    "--store",
    "url",
    envvar="COROLLA_STORE",
    metavar="URL",
    help="Folder or URL of the store (default: the user's data folder; env: COROLLA_STORE).",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_task = click.option("--task", metavar="TASK", help="Task; may be left out where the store has only one.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace a file that stands there.")
_path = click.Path(path_type=Path)

Format = Literal["archive", "timm", "peft"]
T = TypeVar("T")


def _epilog(*examples: str) -> str:
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


@click.command(
    epilog=_epilog(
        "corolla adapters fold lora --task digits --out lora.safetensors",
        'corolla adapters fold "0.5*lora + 0.5*repadapter" --task digits --out both.safetensors',
        "corolla adapters fold full@prod --alpha 0.6 --task digits --out robust.safetensors",
    )
)
@click.argument("model")
@_task
@click.option("--out", required=True, type=_path, help="File to write, .safetensors.")
@click.option("--alpha", type=float, default=1.0, show_default=True, help="Times every alpha of the model.")
@click.option("--extrapolate", is_flag=True, help="Allow alphas outside [0, 1].")
@_overwrite
@_store
@_as_json
def fold(
    model: str,
    task: str | None,
    out: Path,
    alpha: float,
    extrapolate: bool,
    overwrite: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Write one MODEL as a plain timm checkpoint.

    MODEL is an adapter, an interpolation such as 0.6*lora, or a sum in weight space; every method in it has
    to fold into weights. timm.create_model with strict loading gives the same logits from the file alone.
    """
    store = Store.open(url)
    if not extrapolate and not 0 <= alpha <= 1:
        raise InvalidInput(
            f"alpha {alpha:g} lies outside [0, 1]", field="--alpha", remedy="or add --extrapolate"
        )
    member = one_model.resolve(store, model, chosen_task(store, task), extrapolate=extrapolate)
    found = _folded(store, member, alpha)
    write_file(out, found.encode(), overwrite)
    _say_written(out, found.route, found.header | {"tensors": len(found.tensors)}, as_json)


@click.command(
    "export",
    epilog=_epilog(
        "corolla adapters export lora --task digits --format archive --out lora.corolla",
        "corolla adapters export lora:3 --task digits --format peft --out lora-peft/",
        "corolla adapters export ssf@prod --task digits --format timm --out ssf.safetensors",
    ),
)
@click.argument("adapter")
@_task
@click.option("--format", "kind", type=click.Choice(["archive", "timm", "peft"]), required=True)
@click.option("--out", required=True, type=_path, help="File to write; for peft a folder.")
@_overwrite
@_store
@_as_json
def export_adapter(
    adapter: str,
    task: str | None,
    kind: Format,
    out: Path,
    overwrite: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Write one version of an adapter for another store or another library.

    ADAPTER is NAME[:VERSION|@ALIAS]. archive: one file for another corolla. timm: a plain checkpoint, as
    `fold` writes it. peft: a folder for Hugging Face PEFT, for the method lora.
    """
    store = Store.open(url)
    ref = parse_adapter(adapter)
    manifest = store.adapters.resolve(ref, ref.task or chosen_task(store, task))
    _write(store, manifest, kind, out, overwrite)
    _say_written(out, str(manifest), {"adapter": str(manifest), "digest": manifest.digest}, as_json)


@click.command(
    "import",
    epilog=_epilog(
        "corolla adapters import lora.corolla --format archive",
        "corolla adapters import lora.corolla --format archive --task digits --name theirs",
        "corolla adapters import lora-peft/ --format peft --task digits --name theirs",
        "corolla adapters import full.safetensors --format timm --task digits --name full",
    ),
)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(["archive", "timm", "peft"]), required=True)
@click.option("--task", metavar="TASK", help="Task to register under (default, archive: its own).")
@click.option("--name", help="Name to register under (default, archive: its own).")
@click.option("--backbone", help="Backbone, where the task is on several; not for archive.")
@click.option(
    "--classes",
    "classes_file",
    type=_path,
    help="Text file with the head's classes, one a line, where their order is not the task's.",
)
@_store
@_as_json
def import_adapter(
    path: Path,
    kind: Format,
    task: str | None,
    name: str | None,
    backbone: str | None,
    classes_file: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Register an adapter that another store or library wrote.

    archive brings its task along. peft (a LoRA folder) and timm (a whole checkpoint, registered with the
    method full) need a task that is in the store.
    """
    store = Store.open(url)
    if kind == "archive":
        _refuse(backbone, "--backbone", "an archive says its backbone itself")
        _refuse(classes_file, "--classes", "an archive says its classes itself")
        data = _read(path)

        from model_store.interchange import archive

        found = archive.register(store, archive.read(data, name=path.name), task=task, name=name)
        notes: list[str] = []
    else:
        if name is None:
            raise InvalidInput("the adapter needs a name", field="--name", remedy="add --name")
        home = chosen_task(store, task)
        record = (
            store.tasks.get(home)
            if backbone is None
            else store.tasks.get(home, store.backbones.get(backbone).digest)
        )
        order = None if classes_file is None else _classes(classes_file)

        from model_store.interchange import peft_lora, timm_checkpoint

        source = peft_lora.read(path) if kind == "peft" else timm_checkpoint.read(_read(path), path.name)
        found, notes = source.register(store, record, name=name, classes=order)
    if as_json:
        click.echo(
            json.dumps({"known": found.known, "notes": notes} | found.manifest.model_dump(mode="json"))
        )
        return
    for note in notes:
        click.echo(f"note: {note}", err=True)
    verb = "stood here already" if found.known else "is registered"
    click.echo(f"{found.manifest} {verb}, digest {found.manifest.digest[:12]}")


@click.command(
    "delete",
    epilog=_epilog(
        "corolla adapters delete lora:2 --task digits", "corolla adapters delete lora:2 --task digits --yes"
    ),
)
@click.argument("adapter")
@_task
@click.option("--yes", is_flag=True, help="Do not ask.")
@_store
@_as_json
def delete(adapter: str, task: str | None, yes: bool, url: str | None, as_json: bool) -> None:
    """Delete one version of an adapter, NAME:VERSION, for good.

    Refused while an alias or a named route means it. `latest` does not hold it: it moves to the newest
    version that remains, or goes with the last one. The number is not used again.
    """
    store = Store.open(url)
    ref = parse_adapter(adapter)
    home = ref.task or chosen_task(store, task)
    if ref.version is None:
        known = ", ".join(
            f"{ref.name}:{version}" for version in store.adapters.versions(home, ref.name)[-16:]
        )
        raise InvalidInput(
            f"{adapter!r} does not say which version",
            field="adapter",
            remedy=f"write one of {known}" if known else "see `corolla adapters list`",
        )
    if not yes and not as_json:
        deletion.check(store, home, ref.name, ref.version)
        if not sys.stdin.isatty():
            raise InvalidInput("nobody can be asked here", field="delete", remedy="add --yes")
        click.confirm(f"Delete {home}/{ref.name}:{ref.version} for good?", abort=True, err=True)
    gone = deletion.delete(store, home, ref.name, ref.version)
    if as_json:
        click.echo(json.dumps({"deleted": gone.adapter, "latest": gone.latest}))
        return
    click.echo(f"{gone.adapter} is gone")
    left = "no version remains" if gone.latest is None else f"latest is version {gone.latest}"
    click.echo(f"{left}; the number {ref.version} is not used again")


# What the commands share


def _write(store: Store, manifest: Manifest, kind: Format, out: Path, overwrite: bool) -> None:
    from model_store.interchange import archive, peft_lora

    if kind == "archive":
        write_file(out, archive.write(store, manifest), overwrite)
    elif kind == "timm":
        write_file(out, _folded(store, _single(store, manifest), 1.0).encode(), overwrite)
    else:
        _write_folder(out, peft_lora.write(store, manifest), overwrite)


def _single(store: Store, manifest: Manifest) -> Member:
    term = ResolvedTerm(alpha=1.0, manifest=manifest, task=store.tasks.of(manifest))
    return Member(weight=1.0, terms=(term,))


def _folded(store: Store, member: Member, alpha: float) -> "Folded":
    from model_store.interchange import folding
    from model_store.resolution.loading import Loader

    loader = Loader(store, store.backbones.get(member.task.spec.backbone_digest))
    return folding.folded(loader, member, alpha=alpha)


def _refuse(value: object, field: str, why: str) -> None:
    if value is not None:
        raise InvalidInput(why, field=field, remedy="leave it out")


def _classes(path: Path) -> tuple[str, ...]:
    try:
        text = _read(path).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path.name} is not UTF-8 text", field="--classes") from error
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _read(path: Path) -> bytes:
    if not path.exists():
        raise NotFound(f"there is no {path}", field="path", remedy="check the path")
    return _outside(path, path.read_bytes)


def write_file(path: Path, data: bytes, overwrite: bool) -> None:
    """Write a file whole or not at all.

    Raises:
        Conflict: Something stands there, and is not to be replaced.
        InvalidInput: It is a folder.
        CorollaError: It cannot be written.
    """
    check_free(path, overwrite)

    def place() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as draft:
            draft.write_bytes(data)

    _outside(path, place)


def _write_folder(folder: Path, files: dict[str, bytes], overwrite: bool) -> None:
    for name in files:
        check_free(folder / name, overwrite)
    for name, data in files.items():
        write_file(folder / name, data, overwrite)


def check_free(path: Path, overwrite: bool) -> None:
    """Refuses what `write_file` would refuse."""
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder", field="--out", remedy="name a file")
    if path.exists() and not overwrite:
        raise Conflict(f"{path} exists", field="--out", remedy="choose another, or add --overwrite")


def _outside(path: Path, act: Callable[[], T]) -> T:
    try:
        return act()
    except OSError as error:
        raise CorollaError(
            f"{path} cannot be read or written ({error.strerror})", field="path", remedy="check the path"
        ) from error


def _say_written(out: Path, what: str, document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"out": str(out)} | document, ensure_ascii=False))
    else:
        click.echo(f"{what} is in {out}")
