"""Whose certificate a metrics port or a Prometheus may show, by flags. No torch, no gRPC."""

from pathlib import Path

import click

from corolla.flags import typed
from petl_vit.errors import InvalidInput
from serving.monitor.http import Trust, shown


def port_trust(url: str | None, ca: Path | None, server_name: str | None) -> Trust | None:
    """Whose certificate an https:// address may show; None is as the system trusts.

    Args:
        url: What is asked, with its scheme; None where it is yet to be found.

    Raises:
        InvalidInput: One of the flags was typed, and the address is in plain text.
    """
    if url is not None and not url.startswith("https:"):
        for name in ("tls_ca", "tls_server_name"):
            if typed(click.get_current_context(), name):
                raise InvalidInput(
                    f"{shown(url)} is asked in plain text", field=name, remedy="write https://"
                )
        return None  # variables are for calls too
    return None if ca is None and server_name is None else Trust(ca=ca, server_name=server_name)
