"""COROLLA_* variables: which are ours, and which Kubernetes puts beside them. No torch.

For every Service of a namespace, Kubernetes sets variables that begin with the Service's name
(`enableServiceLinks`, on by default): a Service `corolla` brings COROLLA_PORT=tcp://10.43.1.39:50051 and
COROLLA_SERVICE_HOST, a Service `corolla-metrics` COROLLA_METRICS_PORT. None of them is a setting.
"""

import re
from collections.abc import Iterator, Mapping

PREFIX = "COROLLA_"

_LINK_NAMES = re.compile(
    r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$"
)
_LINK_ADDRESS = re.compile(r"^(tcp|udp|sctp)://")


def is_link(name: str, value: str) -> bool:
    """Whether a variable of the environment is a service link of Kubernetes."""
    return bool(_LINK_NAMES.search(name)) or (name.endswith("_PORT") and is_link_address(value))


def is_link_address(value: str) -> bool:
    """Whether a value is what a service link says where a port is expected: `tcp://10.43.1.39:50051`."""
    return bool(_LINK_ADDRESS.match(value))


def links(environ: Mapping[str, str]) -> list[str]:
    """The names of the service links that begin as our variables do."""
    return sorted(n for n, value in environ.items() if n.startswith(PREFIX) and is_link(n, value))


def ours(environ: Mapping[str, str]) -> Iterator[str]:
    """The names that somebody set for us: not service links, and not what is empty, so as good as unset."""
    for name, value in sorted(environ.items()):
        if name.startswith(PREFIX) and value and not is_link(name, value):
            yield name
