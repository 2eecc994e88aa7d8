"""Where work stands in the queue: its priority, whose it is, and what it asks for."""

from enum import IntEnum

from serving.engine.fair_queue import Party


class Priority(IntEnum):
    """How much of a busy engine the work of one priority gets, beside that of the others."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


Path = tuple[Party, Party, Party, Party, Party]
"""Priority, principal, task, client, flow."""

EVERYBODY = Party("")
"""The principal where nobody has to say who they are, and the task of work that is of none."""

_PRIORITIES = {priority: Party(priority, 4.0**priority) for priority in Priority}


def path(priority: Priority, principal: Party, task: Party, client: str, flow: str) -> Path:
    """The path of work.

    Args:
        principal: Who was let in, with their weight.
        task: What it is asked about, with its weight.
        client: Who asks, as they say themselves.
        flow: The adapters that it uses.
    """
    return _PRIORITIES[priority], principal, task, Party(client), Party(flow)
