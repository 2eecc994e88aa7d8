"""`corolla adapters soup`, an entry point of the `adapters` group: it needs images, the store does not.

What computes is imported once the arguments are read.
"""

import json
from typing import TYPE_CHECKING

import click

from model_store.store import Store
from petl_vit.precision import CHOICES, MEANING, Precision
from training.progress import Bars

if TYPE_CHECKING:
    from training.run.soup import Kind


@click.command(
    epilog="\b\nExamples:\n"
    '  corolla adapters soup --task digits --members "lora, ssf:2, lora-b" --data digits --name soup\n'
    '  corolla adapters soup --task digits --members "lora, lora-b" --data digits --kind uniform --name mean'
)
@click.option("--task", required=True, metavar="TASK", help="The members' task.")
@click.option("--members", required=True, help="Adapters, with commas: NAME[:VERSION|@ALIAS].")
@click.option("--data", "source", required=True, help="Labelled images; those held out are used.")
@click.option("--name", required=True, help="Name to register under.")
@click.option(
    "--kind",
    type=click.Choice(["greedy", "uniform"]),
    default="greedy",
    show_default=True,
    help="greedy: from the best down, keep what raises held-out accuracy; uniform: all.",
)
@click.option(
    "--holdout",
    type=click.FloatRange(0.01, 0.9),
    default=0.2,
    show_default=True,
    help="Share of the images that training held out.",
)
@click.option("--all-images", is_flag=True, help="Use all of --data: a held-out set of its own.")
@click.option(
    "--split-seed",
    type=click.IntRange(0, 2**31 - 1),
    default=0,
    show_default=True,
    help="The split seed of training.",
)
@click.option(
    "--precision",
    type=click.Choice(CHOICES),
    default=Precision.AUTO.value,
    show_default=True,
    help=f"What the choice is made in, as a server's: {MEANING}.",
)
@click.option("--backbone", help="Name or digest.  [default: the one that the task is on]")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the backbone runs.",
)
@click.option(
    "--store", "url", envvar="COROLLA_STORE", help="Folder or URL of the model store. [env: COROLLA_STORE]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def soup(
    task: str,
    members: str,
    source: str,
    name: str,
    kind: "Kind",
    holdout: float,
    all_images: bool,
    split_seed: int,
    precision: str,
    backbone: str | None,
    device: str,
    url: str | None,
    as_json: bool,
) -> None:
    """Average adapters of one task in weight space, chosen on held-out images, into a new adapter."""
    store = Store.open(url)
    backbone = backbone or store.tasks.get(task).spec.backbone_digest

    from training.run import soup as soups

    outcome = soups.run(
        store,
        soups.Job(
            backbone=backbone,
            task=task,
            name=name,
            members=members,
            data=source,
            kind=kind,
            holdout=None if all_images else holdout,
            split_seed=split_seed,
            device=device,
            precision=Precision(precision),
        ),
        Bars(),
    )
    manifest = outcome.manifest
    if as_json:
        click.echo(json.dumps(manifest.model_dump(mode="json")))
        return
    for member in outcome.members:
        share = f"share {member.weight:.3f}" if member.weight else "left out"
        click.echo(f"  {member.manifest}  held-out accuracy {member.accuracy:.3f}  {share}")
    click.echo(
        f"{manifest} is registered: held-out accuracy {manifest.metrics['accuracy']:.3f} on "
        f"{manifest.training['heldout_images']} images (base head {manifest.metrics['base_accuracy']:.3f}), "
        f"measured in {manifest.metrics_precision}"
    )
