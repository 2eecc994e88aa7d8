"""`python -m serving.client.health [HOST:PORT]`: 0 when a server serves, for container health checks."""

import sys
from collections.abc import Sequence

from serving.client.blocking import Client
from serving.client.messages import DEFAULT_ADDRESS

_TIMEOUT_S = 3.0


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 serving, 1 not, 2 a mistake."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print("usage: python -m serving.client.health [HOST:PORT]", file=sys.stderr)
        return 2
    with Client(*(arguments or [DEFAULT_ADDRESS]), timeout_s=_TIMEOUT_S) as client:
        return 0 if client.serving() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
