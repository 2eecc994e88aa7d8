"""The priority of work."""

from enum import IntEnum


class Priority(IntEnum):
    """How much of a busy engine the work of one priority gets, beside that of the others."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


Path = tuple[Priority, str, str]
"""Where work stands in the queue: priority, client, flow."""
