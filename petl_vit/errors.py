"""The error tree: mistakes and conditions that a user can act on, without any transport.

Every error names its field and, where there is one, the remedy; the servicer maps the class to a status
code, the command line to an exit code. This module imports nothing of ours, so that clients without torch
can share it.
"""

import difflib
from collections.abc import Iterable
from typing import Self


class CorollaError(ValueError):
    """A mistake or a condition that the user can act on.

    Args:
        problem: What is wrong, one sentence without a final full stop.
        field: The input it is about: a flag, a request field, a file.
        remedy: What to do about it.
    """

    def __init__(self, problem: str, *, field: str | None = None, remedy: str | None = None) -> None:
        self.problem = problem
        self.field = field
        self.remedy = remedy
        super().__init__(problem)

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        then = f"; {self.remedy}" if self.remedy else ""
        return f"{where}{self.problem}{then}"

    def about(self, field: str | None) -> Self:
        """A copy of the error that names another field, as another protocol or command has it."""
        copy = type(self).__new__(type(self), *self.args)  # what a subclass asks for is among the attributes
        copy.__dict__ |= self.__dict__
        copy.field = field
        return copy


class InvalidInput(CorollaError):
    """A value that can never work: wrong type, shape, range, name or format."""


class Unsupported(InvalidInput):
    """A backbone or a combination that this version refuses by name."""


class NotFound(CorollaError):
    """A name, version, alias or file that does not exist."""


class Conflict(CorollaError):
    """The name is in use already, or its target has changed since it was read."""


class Unauthenticated(CorollaError):
    """A call that does not show who calls, or shows what does not count.

    Attributes:
        reason: Why, in one word, as it is counted.
    """

    def __init__(
        self,
        problem: str,
        *,
        field: str | None = None,
        remedy: str | None = None,
        reason: str = "no_credentials",
    ) -> None:
        super().__init__(problem, field=field, remedy=remedy)
        self.reason = reason


class Forbidden(CorollaError):
    """A call that this server does not allow its caller."""


class Corrupt(CorollaError):
    """Stored bytes that do not match their digest, manifest or format."""


class Untrusted(Corrupt):
    """An adapter that nobody vouches for who is trusted here."""


class Overloaded(CorollaError):
    """The queue or the memory for it is full; trying again later can work.

    Attributes:
        retry_after_s: When there may be room; None where that is not known, or where there never will be.
    """

    def __init__(
        self,
        problem: str,
        *,
        field: str | None = None,
        remedy: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(problem, field=field, remedy=remedy)
        self.retry_after_s = retry_after_s


class Expired(CorollaError):
    """The caller's deadline passed, or cannot be met, before the work was done."""


class Unreachable(CorollaError):
    """A store that does not answer; trying again later can work."""


class Draining(CorollaError):
    """The server is starting or stopping and takes no new work."""


_NEARLY_AS_NEAR = 0.2
"""Names that are less like a misspelt one than the nearest by more than this are not proposed beside it."""


def near(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.6) -> str | None:
    """The remedy "did you mean ...?" for a name that may be misspelt; None where no known name is near.

    Args:
        most: How many names it proposes at most.
        cutoff: How similar a name has to be, from 0 to 1.
    """
    close = difflib.get_close_matches(name, sorted(known), n=most, cutoff=cutoff)
    likeness = {match: difflib.SequenceMatcher(None, match, name).ratio() for match in close}
    matches = [match for match in close if likeness[match] >= likeness[close[0]] - _NEARLY_AS_NEAR]
    return f"did you mean {' or '.join(matches)}?" if matches else None
