"""`corolla watch`: whether the answers are still right, live in a terminal. Imports no torch."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.live import Live

from corolla import flags
from corolla.flags import epilog
from corolla.port_trust import port_trust
from corolla.status_reader import StatusReader, nearest
from corolla.watching import View
from petl_vit.errors import Corrupt, NotFound, Unreachable, near
from serving.monitor import http
from serving.monitor.status import Status

_AROUND = 12  # lines of a terminal beside the routes
_UNBOUNDED = 400  # columns, where nobody says how wide it may be
_NAMED = 10


@click.command(
    epilog=epilog(
        "corolla watch",
        "corolla watch monitor.example:9096 --route birds/best",
        "corolla watch https://server.example:9095 --tls-ca ca.pem --token-file metrics.token",
        "corolla watch --once",
        "corolla watch --json --every 60 >> status.jsonl",
    )
    + "\n\nExit codes: 0 shown; 2 nothing answers, or a mistake; 130 interrupted."
)
@click.argument("address", required=False)
@click.option("--route", "routes", multiple=True, metavar="TASK/NAME", help="Only this one; may be repeated.")
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait between looks.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a look, each on its line.")
@flags.port_access
def watch(
    address: str | None,
    routes: tuple[str, ...],
    once: bool,
    every: float,
    as_json: bool,
    tls_ca: Path | None,
    tls_server_name: str | None,
    token_file: Path | None,
    insecure: bool,
) -> None:
    """Watch how right the answers are, in a terminal.

    For each route in each domain: images, confidence, agreement of the members, accuracy as estimated
    without labels and as labels measure it, and alarms.

    ADDRESS is HOST:PORT or a URL: the metrics port of a server, or the port of `corolla monitor`, which
    sees many servers.  [default: 127.0.0.1:9096 where corolla monitor runs there, else 127.0.0.1:9095]
    """
    url = None if address is None else http.base_url(address, "address")
    trust = port_trust(url, tls_ca, tls_server_name)
    if address is None:
        reader = nearest(token=token_file, trust=trust)
    else:
        reader = StatusReader(address, token=token_file, insecure=insecure, trust=trust)
    looks = _looks(reader, routes, once=once, every_s=every)
    console = Console(markup=False, emoji=False, highlight=False)
    if as_json:
        _documents(looks)
    elif once or not console.is_terminal:
        for number, view in enumerate(looks):
            click.echo(("\n" if number else "") + _text(view, console), nl=False)
    else:
        _live(looks, console)


def _looks(reader: StatusReader, routes: tuple[str, ...], *, once: bool, every_s: float) -> Iterator[View]:
    """The first at once; where a later one fails, the last numbers with what happened.

    Raises:
        Unreachable, Corrupt: Of the first look.
        NotFound: The first look has no such route.
    """
    status = reader.read()
    _check(status, routes)
    yield View(status=_only(status, routes))
    while not once:
        time.sleep(every_s)
        late = ""
        try:
            status = reader.read()
        except (Unreachable, Corrupt) as error:
            late = error.problem
        yield View(status=_only(status, routes), late=late)


def _documents(looks: Iterator[View]) -> None:
    for view in looks:
        if view.late:
            click.echo(f"corolla: {view.late}", err=True)
        else:
            click.echo(view.status.model_dump_json())


def _live(looks: Iterator[View], console: Console) -> None:
    """The looks in one place of the terminal, which keeps the last."""
    with Live(console=console, auto_refresh=False) as live:
        for view in looks:
            live.update(replace(view, most=max(1, console.height - _AROUND)), refresh=True)


def _text(view: View, console: Console) -> str:
    """A look as wide as the terminal, or as wide as it needs to be where there is none."""
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNBOUNDED
    with console.capture() as captured:
        console.print(view)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def _check(status: Status, routes: tuple[str, ...]) -> None:
    known = [route.route for route in status.routes]
    for name in routes:
        if name not in known:
            remedy = near(name, known, most=1) or f"it has {', '.join(known[:_NAMED]) or 'no route yet'}"
            raise NotFound(f"{name!r} is not a route of {status.source}", field="route", remedy=remedy)


def _only(status: Status, routes: tuple[str, ...]) -> Status:
    """The status of these routes; of all where none is named."""
    if not routes:
        return status
    kept = tuple(route for route in status.routes if route.route in routes)
    return status.model_copy(update={"routes": kept})
