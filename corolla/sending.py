"""Images sent to a server in as many requests as it takes, and their answers as one. No torch."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from serving.client.blocking import Client
from serving.client.messages import RequestFailed, too_large

_IMAGES = 64
_BYTES = 48 * 2**20
"""What a server takes at its defaults, with room for the rest of a message."""

Named = tuple[str, bytes]
"""An image and its id."""


def classified(client: Client, images: Sequence[Named], **options: Any) -> Any:
    """The ClassifyResponse to images of any number; `options` are those of `Client.classify`.

    An image that is too large by itself has its own error in its result, as a damaged one has.

    Raises:
        RequestFailed: The server refused a request, and not for its size alone; or all images are too large.
    """
    answers = [answer for group in _groups(images) for answer in _answers(client, group, options)]
    given = [answer for answer in answers if not isinstance(answer, RequestFailed)]
    if not given:
        raise next(answer for answer in answers if isinstance(answer, RequestFailed))
    whole = copy.deepcopy(given[0])
    whole.route = " then ".join(dict.fromkeys(one.route for one in given))
    for one in given[1:]:
        known = {adapter.digest for adapter in whole.adapters}
        whole.adapters.extend(adapter for adapter in one.adapters if adapter.digest not in known)
    del whole.results[:]
    names = iter(name for name, _ in images)
    for answer in answers:
        found = [too_large(answer)] if isinstance(answer, RequestFailed) else answer.results
        for result in found:
            result.id = next(names)
        whole.results.extend(found)
    return whole


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
    """The answers to a group, in halves where the server takes less than others do.

    The error is that of one image which is too large by itself.
    """
    try:
        names, data = [name for name, _ in group], [data for _, data in group]
        return [client.classify(data, ids=names, **options)]
    except RequestFailed as error:
        if not error.too_much:
            raise
        if len(group) == 1:
            return [error]
    middle = len(group) // 2
    return [answer for half in (group[:middle], group[middle:]) for answer in _answers(client, half, options)]
