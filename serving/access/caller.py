"""The caller of the call under way, from where it is authenticated to where its rights are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Protocol

from serving.access.principals import ANONYMOUS, Principal, Scope


class Caller(Protocol):
    """A principal whose call is under way.

    Attributes:
        principal: As it is now, not as it was when the call began.
    """

    @property
    def principal(self) -> Principal: ...

    def need(self, scope: Scope) -> None:
        """Says what the call needs, for as long as it lasts.

        Raises:
            Forbidden: The principal does not have the scope.
        """

    def take_request(self) -> None:
        """Counts one request.

        Raises:
            Unauthenticated: Its token has ended since the call began.
            Forbidden: Its scope was taken away since.
            Overloaded: It has sent as many as it may.
        """

    def take_rows(self, rows: int) -> None:
        """Counts rows before they are computed.

        Raises:
            Overloaded: It has sent as many as it may.
        """

    def add_rows(self, rows: int) -> None:
        """Counts rows that follow from what was taken, such as a cascade's later rounds; never refuses."""


class _Anyone:
    """Whoever calls a server without principals."""

    principal = ANONYMOUS

    def need(self, scope: Scope) -> None: ...

    def take_request(self) -> None: ...

    def take_rows(self, rows: int) -> None: ...

    def add_rows(self, rows: int) -> None: ...


ANYONE: Caller = _Anyone()
_CURRENT: ContextVar[Caller] = ContextVar("caller", default=ANYONE)


def current() -> Caller:
    """Whoever makes the call that is under way in this task."""
    return _CURRENT.get()


def caller() -> Principal:
    """The principal that makes the call that is under way in this task."""
    return _CURRENT.get().principal


def enter(caller: Caller) -> Token[Caller]:
    """Says who makes the call of this task, until the task ends."""
    return _CURRENT.set(caller)


@contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """A block that runs for a caller."""
    token = _CURRENT.set(caller)
    try:
        yield
    finally:
        _CURRENT.reset(token)
