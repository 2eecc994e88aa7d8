"""Images sent to a server in as many requests as it takes, and their answers as one. No torch."""

from collections.abc import Iterator, Sequence
from typing import Any

from serving.client.blocking import Client
from serving.client.messages import RequestFailed

_IMAGES = 64
_BYTES = 48 * 2**20
"""What a server takes at its defaults, with room for the rest of a message."""

Named = tuple[str, bytes]
"""An image and its id."""


def classified(client: Client, images: Sequence[Named], **options: Any) -> Any:
    """The ClassifyResponse to images of any number; `options` are those of `Client.classify`.

    Raises:
        RequestFailed: The server refused a request, and not for its size alone.
    """
    first, *others = [answer for group in _groups(images) for answer in _answers(client, group, options)]
    for answer in others:
        first.results.extend(answer.results)
        if answer.route not in first.route.split(" then "):
            first.route = f"{first.route} then {answer.route}"
        known = {adapter.digest for adapter in first.adapters}
        first.adapters.extend(adapter for adapter in answer.adapters if adapter.digest not in known)
    return first


def _groups(images: Sequence[Named]) -> Iterator[list[Named]]:
    group, nbytes = list[Named](), 0
    for name, data in images:
        if group and (len(group) == _IMAGES or nbytes + len(data) > _BYTES):
            yield group
            group, nbytes = [], 0
        group.append((name, data))
        nbytes += len(data)
    yield group


def _answers(client: Client, group: list[Named], options: dict[str, Any]) -> list[Any]:
    """The answers to a group, in halves where the server takes less than others do."""
    try:
        names, data = [name for name, _ in group], [data for _, data in group]
        return [client.classify(data, ids=names, **options)]
    except RequestFailed as error:
        if len(group) < 2 or not error.too_much:
            raise
    middle = len(group) // 2
    return [answer for half in (group[:middle], group[middle:]) for answer in _answers(client, half, options)]
