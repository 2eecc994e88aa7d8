"""`corolla store`: a store as a whole is verified, cleared of what nothing needs, and copied."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import click

from corolla import flags, tables
from corolla.durations import Duration
from corolla.flags import epilog
from corolla.group import CommandGroup
from model_store import copying, garbage, verification
from model_store.format.trust import TrustedKeys
from model_store.leftovers import Leftover
from model_store.store import Store
from petl_vit.errors import NotFound
from training.progress import Bars

_DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would be done.")


@click.group(cls=CommandGroup)
def store() -> None:
    """Verify, clear and copy a store."""


@store.command(
    epilog=epilog(
        "corolla store verify",
        "corolla store verify --trusted-keys trusted_keys",
        "corolla store verify --store s3://models/prod --json",
    )
)
@click.option("--quick", is_flag=True, help="Do not read tensors; they must only exist.")
@flags.trusted_keys("every version")
@flags.store
@flags.as_json
def verify(quick: bool, trusted_keys: Path | None, url: str | None, as_json: bool) -> None:
    """Check every record, digest, reference and signature of a store.

    Exits with 1 where there is a problem. Writers may go on meanwhile. What a killed writer left behind is
    counted, and is not a problem: `corolla store gc` removes it.
    """
    trusted = None if trusted_keys is None else TrustedKeys(trusted_keys.expanduser()).now()
    with _counted("verifying") as advance:
        report = verification.verify(Store.open(url), tensors=not quick, trusted=trusted, advance=advance)
    if as_json:
        tables.print_json(
            {
                "whole": report.whole,
                "checked": report.checked,
                "bytes": report.size,
                "problems": [vars(problem) for problem in report.problems],
                "leftovers": _documents(report.leftovers),
            }
        )
    else:
        for problem in report.problems:
            click.echo(str(problem))
        checked = ", ".join(f"{count:,} {kind}" for kind, count in report.checked.items()) or "nothing"
        click.echo(f"checked   {checked}; {tables.size(report.size)}")
        if report.leftovers:
            size = tables.size(sum(leftover.size for leftover in report.leftovers))
            click.echo(f"leftovers {len(report.leftovers):,}, {size}: corolla store gc --dry-run")
        click.echo(f"problems  {len(report.problems):,}")
    if not report.whole:
        click.get_current_context().exit(1)


@store.command(epilog=epilog("corolla store gc --dry-run", "corolla store gc --grace 7d"))
@click.option(
    "--grace",
    type=Duration(0.0),
    default="1d",
    show_default=True,
    help="What was written less long ago stays: its writer may be at work.",
)
@_DRY_RUN
@flags.store
@flags.as_json
def gc(grace: float, dry_run: bool, url: str | None, as_json: bool) -> None:
    """Remove what nothing in a store needs.

    Half an import or publication, an interrupted deletion, lists of images and references whose adapters are
    deleted. What was registered is never removed: see `corolla adapters delete` and `corolla tasks delete`.
    Servers and training may go on meanwhile.
    """
    with _counted("removing") as advance:
        collection = garbage.collect(
            Store.open(url),
            timedelta(seconds=grace),
            dry_run=dry_run,
            note=lambda text: click.echo(f"note: {text}", err=True),
            advance=advance,
        )
    if as_json:
        return tables.print_json(
            {
                "dry_run": dry_run,
                "removed": _documents(collection.removed),
                "young": _documents(collection.young),
                "needed": _documents(collection.needed),
                "drafts": len(collection.drafts),
                "bytes": collection.freed,
            }
        )
    for kind, count in sorted(Counter(leftover.kind for leftover in collection.removed).items()):
        size = sum(leftover.size for leftover in collection.removed if leftover.kind is kind)
        click.echo(f"{count:>6,} x {kind}, {tables.size(size)}")
    if collection.drafts:
        click.echo(f"{len(collection.drafts):>6,} x half-written file, {tables.size(sum(collection.drafts))}")
    if collection.young:
        click.echo(f"{len(collection.young):>6,} younger than the grace stay")
    if collection.needed:
        click.echo(f"{len(collection.needed):>6,} turned out to be needed, and stay")
    click.echo(f"{tables.size(collection.freed)} {'would be ' if dry_run else ''}freed")


@store.command(
    epilog=epilog(
        "corolla store copy s3://models/prod",
        "corolla store copy /backup/store --store s3://models/prod --dry-run",
    )
)
@click.argument("target")
@_DRY_RUN
@flags.store
@flags.as_json
def copy(target: str, dry_run: bool, url: str | None, as_json: bool) -> None:
    """Copy what another store lacks to it; the same again copies what is new.

    Versions keep their numbers and signatures. Nothing in TARGET, a folder or a URL, is replaced or removed:
    what means something else there is reported and stays, and the exit code is 1. `latest` moves on.
    """
    source = Store.open(url)
    if not source.place.keys("backbones"):
        raise NotFound(f"{source} holds no backbone", field="store", remedy="name the store to copy from")
    with _counted("copying") as advance:
        copied = copying.copy(source, Store.open(target), dry_run=dry_run, advance=advance)
    if as_json:
        tables.print_json(
            {
                "dry_run": dry_run,
                "copied": list(copied.places),
                "bytes": copied.size,
                "present": copied.present,
                "differences": [vars(difference) for difference in copied.differences],
            }
        )
    else:
        for difference in copied.differences:
            click.echo(str(difference))
        done = "would be copied" if dry_run else "copied"
        click.echo(
            f"{len(copied.places):,} {done}, {tables.size(copied.size)}; {copied.present:,} were there"
        )
    if copied.differences:
        click.get_current_context().exit(1)


def _documents(leftovers: Sequence[Leftover]) -> list[dict[str, object]]:
    return [
        {
            "place": leftover.place,
            "what": leftover.kind.value,
            "bytes": leftover.size,
            "modified": leftover.modified.isoformat(),
        }
        for leftover in leftovers
    ]


@contextmanager
def _counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Progress on stderr, from the number of things that are done and of all."""
    with ExitStack() as stack:
        step: list[Callable[[int], None]] = []
        before = 0

        def advance(done: int, total: int) -> None:
            nonlocal before
            if not step:
                step.append(stack.enter_context(Bars().stage(what, total)))
            step[0](done - before)
            before = done

        yield advance
