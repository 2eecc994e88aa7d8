"""Files that a garbage collector is about to delete, and writers that find one there and need it after all.

The collector marks a file, makes sure that nothing needs it, deletes it and removes the mark. The writer
first creates what needs the file, and then looks for a mark. Either the collector sees what the writer
created, or the writer sees the mark, waits until it is gone and writes the file again.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from model_store.format import keys
from model_store.place.objects import Place, Stamp
from petl_vit.errors import Conflict

_PATIENCE_S, _PAUSE_S = 30.0, 0.02


@contextmanager
def condemned(place: Place, key: str) -> Iterator[Stamp | None]:
    """Mark a file for as long as the block runs.

    Yields:
        How the mark is listed, whose time is now by the place's clock; None where there is another's mark.
    """
    mark = keys.garbage(key)
    if not place.create(mark, datetime.now(UTC).isoformat().encode()):
        yield None
        return
    try:
        yield place.stamp(mark)
    finally:
        place.delete(mark)


def keep(place: Place, key: str, data: bytes) -> None:
    """Make sure that a file stays, or is written again; what needs it has been created already.

    Raises:
        Conflict: A collector's mark does not go away, as when it was killed.
    """
    mark, end = keys.garbage(key), time.monotonic() + _PATIENCE_S
    while place.exists(mark):
        if time.monotonic() > end:
            place.create(key, data)
            raise Conflict(
                "a garbage collector that was cut off has marked it",
                field=key,
                remedy="run `corolla store gc` and try again",
            )
        time.sleep(_PAUSE_S)
    if not place.exists(key):
        place.create(key, data)
