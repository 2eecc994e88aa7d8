"""Writes whose answer is lost, while others delete."""

from typing import Any

from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from model_store.place.writes import Writes


class Losing:
    """A store that writes, loses the first answer, and whose object is deleted before it is looked at."""

    def __init__(self) -> None:
        self.kept = MemoryStore()
        self._lost = self._deleted = False

    def put(self, key: str, data: bytes, **options: Any) -> object:
        written = self.kept.put(key, data, **options)
        if not self._lost:
            self._lost = True
            raise GenericError("the answer was lost")
        return written

    def get(self, key: str) -> object:
        if not self._deleted:
            self._deleted = True
            self.kept.delete(key)
        return self.kept.get(key)


def test_a_creation_whose_object_is_deleted_before_it_is_looked_at_begins_again() -> None:
    backend: Any = Losing()
    assert Writes(backend, attempts=3).put("a", b"new", "create")
    assert bytes(backend.kept.get("a").bytes()) == b"new"
