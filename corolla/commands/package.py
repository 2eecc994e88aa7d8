"""`corolla package`: the engine in the form that other people's servers take."""

import sys
from pathlib import Path

import click

from corolla import flags
from corolla.flags import epilog, option_of
from corolla.group import CommandGroup
from model_store.store import Store
from serving.access.principals_file import Principals
from serving.settings import Settings
from serving.torchserve.packaging import NOTICE, Package, java_problem

_FIELDS = Settings.model_fields


@click.group(cls=CommandGroup)
def package() -> None:
    """Package the engine for other servers: TorchServe."""


@package.command(
    help="Write a folder that TorchServe serves: an archive, its settings and its metrics.\n\n"
    "The archive holds no weights: the worker reads the backbone and all adapters from --store, and new "
    f"adapters need no new archive.\n\n{NOTICE}",
    epilog=epilog(
        "corolla package torchserve --out served",
        "corolla package torchserve --store s3://models/corolla --backbone vit-b --out served",
        "torchserve --start --ncs --ts-config served/config.properties",
    ),
)
@flags.store
@flags.backbone
@click.option("--out", required=True, type=flags.PATH, help="Folder to write.")
@click.option("--name", default="corolla", show_default=True, help="The model's name in TorchServe.")
@click.option("--version", default="1.0", show_default=True, help="The model's version in TorchServe.")
@option_of("device", _FIELDS["device"])
@option_of("precision", _FIELDS["precision"])
@option_of("domains", _FIELDS["domains"])
@option_of("threads", _FIELDS["threads"])
@click.option(
    "--principals",
    type=flags.PATH,
    metavar="FILE",
    help="File of who may ask, by tokens of `corolla tokens`.  [default: whoever TorchServe lets in]",
)
@click.option("--force", is_flag=True, help="Replace files that exist.")
def torchserve(
    url: str | None,
    backbone: str | None,
    out: Path,
    name: str,
    version: str,
    force: bool,
    principals: Path | None,
    **settings: object,
) -> None:
    if principals is not None:
        Principals.read(principals)
        settings["principals"] = str(principals.resolve())
    store = Store.open(url)
    record = store.backbones.get(backbone)
    settings = {name: value for name, value in settings.items() if value is not None}
    folder = Package(store=store, backbone=record, name=name, version=version, settings=settings)
    for file in folder.write(out, force=force):
        click.echo(file)
    print(f"note: {NOTICE}", file=sys.stderr)
    problem = java_problem()
    if problem is not None:
        print(f"note: {problem}", file=sys.stderr)
    click.echo(f"start it: torchserve --start --ncs --ts-config {out / 'config.properties'}")
