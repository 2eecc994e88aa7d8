"""`corolla tasks refit-head`: another base head for a task.

What computes is imported once the arguments are read.
"""

from typing import TYPE_CHECKING, Any

import click

from corolla import flags, tables
from corolla.flags import epilog
from corolla.task_versions import fitted_to, records_of
from model_store.place.cache import Cache
from model_store.store import Store
from training.progress import Bars

if TYPE_CHECKING:
    from training.run.refit import Refitted


@click.command(
    "refit-head",
    epilog=epilog(
        "corolla tasks refit-head digits --data digits",
        "corolla tasks refit-head plants --data photos/ --heldout val/",
    ),
)
@click.argument("task")
@click.option("--data", required=True, help="Labelled images, as of `corolla train`.")
@click.option("--heldout", help="Held-out images from here, instead of a split.")
@flags.holdout("Share of the images that is held out, as in training.")
@flags.split_seed("Decides which images are held out, as in training.")
@click.option("--limit", type=click.IntRange(2), help="Fit to at most so many images.")
@click.option("--shots", type=click.IntRange(1), help="Fit to so many images of each class.")
@click.option("--move-base", is_flag=True, help="Go on where named routes answer by `base`, which moves.")
@flags.max_pixels
@flags.skip_bad
@flags.columns
@click.option("--backbone", help="Backbone, where the task is on several.")
@flags.device
@flags.cached_store
@flags.as_json
def refit_head(
    task: str, backbone: str | None, url: str | None, cache: Cache | None, as_json: bool, **settings: Any
) -> None:
    """Fit the base head of a task again.

    To all images, say, where its first run had a --limit. The result is the task's next version: adapters
    that are trained from now on start from it, and the route `base` means it. Adapters that exist stay with
    the version that they were trained for.
    """
    store = Store.open(url, cache=cache)
    before = records_of(store, task, backbone, None)[-1]

    from training.run import refit

    refitted = refit.refit(
        store, refit.Job(task=task, backbone=before.spec.backbone_digest, **settings), Bars()
    )
    if as_json:
        return tables.print_json(
            refitted.task.model_dump(mode="json")
            | {
                "heldout_images": refitted.images,
                "accuracy": refitted.accuracy,
                "accuracy_before": refitted.accuracy_before,
            }
        )
    _print_refitted(store, refitted)


def _print_refitted(store: Store, refitted: "Refitted") -> None:
    new, old = refitted.task, refitted.before
    was = "" if refitted.accuracy_before is None else f", {refitted.accuracy_before:.3f} before"
    click.echo(
        f"{new.spec.name} version {new.version}: its base head is fitted to {fitted_to(new)}, held-out "
        f"accuracy {refitted.accuracy:.3f} on {refitted.images} images{was}"
    )
    belong = [
        str(manifest)
        for adapter, versions in store.adapters.published(new.spec.name).items()
        if (manifest := store.adapters.manifest(*adapter, versions[-1])).task_digest == old.digest
    ]
    if belong:
        click.echo(f"{', '.join(belong)} stay with version {old.version}; train them again to leave it")

    from training.run.refit import by_base

    routes = by_base(store, new.spec.name)
    if routes:
        click.echo(f"`base` now means version {new.version}, so these have changed: {', '.join(routes)}")
