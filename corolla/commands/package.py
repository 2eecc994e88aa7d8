"""`corolla package`: the engine in the form that other people's servers take."""

import sys
from pathlib import Path

import click

from model_store.store import Store
from petl_vit.precision import CHOICES, MEANING
from serving.torchserve.packaging import NOTICE, Package, java_problem


@click.group()
def package() -> None:
    """Package the engine for a server that you run already."""


@package.command(
    help="Make a folder that TorchServe serves: an archive, its settings and its metrics.\n\n"
    "The archive holds no weights: the backbone and all adapters come from the store, and new adapters "
    f"need no new archive.\n\n{NOTICE}",
    epilog="\b\nExamples:\n  corolla package torchserve --out served\n"
    "  corolla package torchserve --store s3://models/corolla --backbone vit-b --out served\n"
    "  torchserve --start --ncs --ts-config served/config.properties",
)
@click.option(
    "--store",
    envvar="COROLLA_STORE",
    metavar="URL",
    help="Folder or URL of the store, as the worker will reach it (env: COROLLA_STORE).",
)
@click.option("--backbone", help="Name or digest.  [default: the only one stored]")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--name", default="corolla", show_default=True, help="The model's name in TorchServe.")
@click.option("--version", default="1.0", show_default=True, help="The model's version in TorchServe.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--precision",
    type=click.Choice(CHOICES),
    default="auto",
    show_default=True,
    help=f"What the backbone computes in; {MEANING}.",
)
@click.option("--domains", default="", help="Comma-separated domains that metrics know.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a forward.  [default: all cores]")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def torchserve(
    store: str | None,
    backbone: str | None,
    out: Path,
    name: str,
    version: str,
    device: str,
    precision: str,
    domains: str,
    threads: int | None,
    force: bool,
) -> None:
    place = Store.open(store)
    record = place.backbones.get(backbone)
    settings: dict[str, object] = {"device": device, "precision": precision, "domains": domains}
    if threads is not None:
        settings["threads"] = threads
    made = Package(store=place, backbone=record, name=name, version=version, settings=settings)
    for file in made.write(out, force=force):
        click.echo(file)
    print(f"note: {NOTICE}", file=sys.stderr)
    problem = java_problem()
    if problem is not None:
        print(f"note: {problem}", file=sys.stderr)
    click.echo(f"start it: torchserve --start --ncs --ts-config {out / 'config.properties'}")
