"""`corolla serve`: the server's settings as flags, a line of what is served, a clean stop.

Imports the server, and torch with it, once the settings are known to be good.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from serving import process
from serving.access import exposure
from serving.settings import Settings

_log = logging.getLogger(__name__)


def _option(name: str, field: FieldInfo) -> Any:
    """A flag of a setting; limits are the setting's own to check."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    kind = kinds[0] if NoneType in get_args(field.annotation) else field.annotation
    shown = "" if field.default in (None, "") else f"  [default: {field.default}]"
    text = f"{(field.description or '').capitalize()}.{shown}"
    flag = f"--{name.replace('_', '-')}"
    if kind is bool:
        return click.option(f"{flag}/--no-{name.replace('_', '-')}", name, default=None, help=text)
    choices = click.Choice(get_args(kind)) if get_origin(kind) is Literal else kind
    return click.option(flag, name, type=choices, help=text)


def _options(command: Any) -> Any:
    for name, field in reversed(Settings.model_fields.items()):
        command = _option(name, field)(command)
    return command


@click.command(
    epilog="\b\nExamples:\n  corolla serve\n"
    "  corolla serve --store s3://models/corolla --domains photo,sketch\n"
    "  COROLLA_PORT=0 corolla serve --metrics-port 0"
)
@_options
def serve(**flags: Any) -> None:
    """Serve every adapter from one resident backbone.

    Every flag is also a variable: --max-batch-rows is COROLLA_MAX_BATCH_ROWS.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    settings = Settings.read(flags)
    exposure.check(settings)
    process.bound_memory(os.environ)
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from serving.server import Server

    sizes = {"before the backbone": process.resident_bytes()}
    server = Server(settings)
    sizes["with it"] = process.resident_bytes()
    server.stop_on_signals()
    ready = asyncio.Event()
    running = asyncio.create_task(server.run(ready))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if not running.done():
        process.settle()
        service = server.service
        sizes["warm"] = process.resident_bytes()
        _log.info("resident memory: %s", _said(sizes))
        record = service.loader.record
        click.echo(
            f"serving {record.name} ({service.loader.backbone_bytes / 2**20:.0f} MiB, {service.device}) "
            f"from {service.store}: gRPC {settings.host}:{server.port}, "
            f"metrics {settings.host}:{server.metrics_port}"
        )
    await running


def _said(sizes: Mapping[str, int | None]) -> str:
    found = [f"{size / 2**20:.0f} MiB {when}" for when, size in sizes.items() if size is not None]
    return ", ".join(found) or "not known on this system"
