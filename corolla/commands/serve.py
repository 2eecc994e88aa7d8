"""`corolla serve`: the server, its settings as flags.

Imports the server, and torch with it, once the settings are known to be good.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from corolla import flags
from corolla.flags import epilog, option_of
from serving import environment, logs, process
from serving.access import exposure
from serving.settings import Settings

_EXIT_S = 8.0
"""After the queued work was done or refused: answers are sent, the database and the ports are closed."""

_log = logging.getLogger(__name__)


def _settings(command: Any) -> Any:
    """Give a command a flag for every setting."""
    for name, field in reversed(Settings.model_fields.items()):
        command = flags.store(command) if name == "store" else option_of(name, field)(command)
    return command


@click.command(
    epilog=epilog(
        "corolla serve",
        "corolla serve --store s3://models/corolla --domains photo,sketch",
        "COROLLA_PORT=0 corolla serve --metrics-port 0",
        "corolla serve --host unix:/run/corolla/corolla.sock",
        "corolla serve --principals who.json --tls-certificate server.pem --tls-key server.key",
    )
)
@_settings
def serve(url: str | None, **_: Any) -> None:
    """Serve every adapter from one resident backbone.

    Every flag is also a variable: --max-batch-rows is COROLLA_MAX_BATCH_ROWS.
    """
    given = flags.given(click.get_current_context())
    given.pop("url", None)
    settings = Settings.read(given | {"store": url})
    logs.set_up(settings.log_format, settings.log_calls)
    links = environment.links(os.environ)
    if links:
        _log.info("ignored, as Kubernetes sets them for a Service (enableServiceLinks): %s", ", ".join(links))
    exposure.check(settings)
    process.bound_memory(os.environ)
    asyncio.run(_serve(settings, lambda: process.exit_within(settings.drain_s + _EXIT_S)))


async def _serve(settings: Settings, at_stop: Callable[[], object] = lambda: None) -> None:
    from serving.server import Server

    sizes = {"before the backbone": process.resident_bytes()}
    server = Server(settings)
    sizes["with it"] = process.resident_bytes()
    with server.stopped_by_signals(at_stop):
        ready = asyncio.Event()
        running = asyncio.create_task(server.run(ready))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not running.done():
            process.settle()
            service = server.service
            sizes["warm"] = process.resident_bytes()
            _log.info("resident memory: %s", _mebibytes(sizes))
            url = server.metrics_url
            if url is not None:
                _log.info("the status page is %s/", url)
            record = service.loader.record
            click.echo(
                f"serving {record.name} ({service.loader.backbone_bytes / 2**20:.0f} MiB, {service.device}; "
                f"{service.threads_text}) from {service.store}: gRPC {server.address}, "
                f"metrics {'none' if url is None else url.removeprefix('http://')}"
            )
        await running


def _mebibytes(sizes: Mapping[str, int | None]) -> str:
    known = [f"{size / 2**20:.0f} MiB {when}" for when, size in sizes.items() if size is not None]
    return ", ".join(known) or "not known on this system"
