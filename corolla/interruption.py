"""What an interrupted command says: whether typing it again goes on with its work."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def goes_on(how: str = "the same command goes on where it stopped") -> Iterator[None]:
    """Work that a later call goes on with; an interrupt then says so, in the words of `how`."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(how) from None
