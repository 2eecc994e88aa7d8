"""`corolla adapters soup`: average or merge adapters in weight space.

What computes is imported once the arguments are read.
"""

from typing import TYPE_CHECKING

import click

from corolla import flags, standings, tables
from corolla.flags import epilog
from model_store.place.cache import Cache
from model_store.store import Store
from petl_vit.precision import Precision
from training.merges.recipe import DENSITY, DROP_RATE, KINDS
from training.progress import Bars

if TYPE_CHECKING:
    from training.run.soup import Ingredient


@click.command(
    epilog=epilog(
        'corolla adapters soup --task digits --members "lora, ssf:2, lora-b" --data digits --name soup',
        'corolla adapters soup --task t --members "lora, lora-b" --data photos/ --kind uniform --name mean',
        'corolla adapters soup --task t --members "lora, full" --data photos/ --kind ties --rank 16 --name m',
        'corolla adapters soup --task t --members "a, b" --data photos/ --kind dare --drop-rate 0.7 --name d',
    )
)
@flags.task("The members' task.", required=True)
@click.option("--members", required=True, help="Adapters, with commas: NAME[:VERSION|@ALIAS].")
@click.option("--data", "source", required=True, help="Labelled images; the held-out share of them is used.")
@click.option("--name", required=True, help="Name to register under.")
@click.option(
    "--kind",
    type=click.Choice(["greedy", "uniform", *KINDS]),
    default="greedy",
    show_default=True,
    help="greedy: from the best down, keep what raises held-out accuracy; uniform: all. The others merge "
    "weight changes, of methods that fold: docs/merges.md.",
)
@click.option(
    "--rank",
    type=int,
    help="Merges: keep each linear's change as a product of at most this rank.  [default: as it comes out]",
)
@click.option(
    "--density", type=float, help=f"ties: share of each member's changes that is kept.  [default: {DENSITY}]"
)
@click.option(
    "--drop-rate",
    type=float,
    help=f"dare, ties: share of the changes that is dropped at random.  [default: {DROP_RATE} for dare]",
)
@click.option("--seed", type=int, help="dare, ties: decides what is dropped.  [default: 0]")
@flags.holdout("Share of the images that training held out.")
@click.option("--all-images", is_flag=True, help="Use all of --data: images that nothing was trained on.")
@flags.split_seed("The --split-seed of that training.")
@flags.max_pixels
@flags.skip_bad
@flags.columns
@flags.precision("What the choice is computed in, as a server's")
@click.option("--backbone", help="Name or digest.  [default: the one that the task is on]")
@flags.device
@flags.cached_store
@flags.as_json
def soup(
    task: str,
    members: str,
    source: str,
    name: str,
    kind: str,
    rank: int | None,
    density: float | None,
    drop_rate: float | None,
    seed: int | None,
    holdout: float,
    all_images: bool,
    split_seed: int,
    max_pixels: int,
    skip_bad: bool,
    image_column: str,
    label_column: str,
    precision: str,
    backbone: str | None,
    device: str,
    url: str | None,
    cache: Cache | None,
    as_json: bool,
) -> None:
    """Average or merge adapters of one task in weight space.

    The result is registered as a new adapter and measured on held-out images, on which a greedy soup
    chooses its members.
    """
    store = Store.open(url, cache=cache)
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
            rank=rank,
            density=density,
            drop_rate=drop_rate,
            seed=seed,
            holdout=None if all_images else holdout,
            split_seed=split_seed,
            max_pixels=max_pixels,
            skip_bad=skip_bad,
            image_column=image_column,
            label_column=label_column,
            device=device,
            precision=Precision(precision),
        ),
        Bars(),
    )
    manifest = outcome.manifest
    if as_json:
        names = standings.documents(store, [manifest])
        return tables.print_json(manifest.model_dump(mode="json") | {"names": names})
    for member in outcome.members:
        click.echo(f"  {_line(member)}")
    click.echo(
        f"{manifest} is registered: held-out accuracy {manifest.metrics['accuracy']:.3f} on "
        f"{manifest.training['heldout_images']} images (base head {manifest.metrics['base_accuracy']:.3f}), "
        f"measured in {manifest.metrics_precision}"
    )
    if "temperature_unfitted" in manifest.training:
        click.echo(f"The temperature is not fitted: {manifest.training['temperature_unfitted']}.")
    if outcome.warning:
        click.echo(outcome.warning)
    standings.say(store, [manifest])


def _line(member: "Ingredient") -> str:
    alone = f"{member.manifest}  held-out accuracy {member.accuracy:.3f}"
    if member.weight is None:
        return alone
    return f"{alone}  {f'share {member.weight:.3f}' if member.weight else 'left out'}"
