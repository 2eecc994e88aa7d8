"""A message as a client sent it, and the bytes that it holds while it is answered."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from petl_vit.errors import InvalidInput, Overloaded

T = TypeVar("T")


class Room:
    """The bytes of the messages that are being answered, of calls and of streams together.

    Args:
        most: Most of them; a message alone is answered whatever its size.
    """

    def __init__(self, most: int) -> None:
        self._most, self._taken = most, 0

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """A block during which a message of `size` bytes is answered.

        Raises:
            Overloaded: It does not fit beside the others.
        """
        if self._taken and self._taken + size > self._most:
            raise Overloaded(
                f"messages of {self._taken:,} bytes are being answered and {size:,} more do not fit in "
                f"{self._most:,}",
                field="queue",
                remedy="retry after a pause, or send smaller images",
            )
        self._taken += size
        try:
            yield
        finally:
            self._taken -= size


@dataclass(frozen=True)
class Sent(Generic[T]):
    """A message as a client sent it.

    Attributes:
        content: What was read, or why it cannot be read.
        size: Its bytes on the wire.
    """

    content: T | InvalidInput
    size: int
    room: Room

    @property
    def message(self) -> T:
        """What was read.

        Raises:
            InvalidInput: It cannot be read.
        """
        if isinstance(self.content, InvalidInput):
            raise self.content
        return self.content

    @contextmanager
    def answered(self) -> Iterator[T]:
        """The message, in a block that answers it.

        Raises:
            InvalidInput: It cannot be read.
            Overloaded: It does not fit beside the messages that are being answered.
        """
        message = self.message
        with self.room.taken(self.size):
            yield message
