"""How a command reaches a running server: its flags. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

_PEM = click.Path(path_type=Path)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How to reach a server.

    Attributes:
        ca: Whom to trust; certificate, key: who we are. PEM files; TLS is spoken where one is given.
        timeout_s: Seconds that the server may take.
    """

    ca: Path | None
    certificate: Path | None
    key: Path | None
    timeout_s: float


def reach_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Gives a command the flags of a `Reach`; it is called with `reach`."""

    @click.option("--tls-ca", type=_PEM, help="PEM file; speak TLS to the server, trust this CA.")
    @click.option("--tls-certificate", type=_PEM, help="PEM file; who you are, to a server that asks.")
    @click.option("--tls-key", type=_PEM, help="PEM file; the certificate's key.")
    @click.option(
        "--timeout",
        type=click.FloatRange(0, min_open=True),
        default=30.0,
        show_default=True,
        help="Seconds that the server may take.",
    )
    @wraps(command)
    def run(
        tls_ca: Path | None, tls_certificate: Path | None, tls_key: Path | None, timeout: float, **rest: Any
    ) -> Any:
        reach = Reach(ca=tls_ca, certificate=tls_certificate, key=tls_key, timeout_s=timeout)
        return command(reach=reach, **rest)

    return run
