"""Changes to a server's file of principals: tokens are added, revoked and replaced. No torch, no gRPC."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from petl_vit.errors import Conflict, InvalidInput, NotFound, near
from serving.access import tokens
from serving.access.principals import Principal, StoredToken
from serving.access.principals_file import FIELD, Principals
from serving.client.token import Secret

_FLAGS = {"scopes": "scope", "tasks": "task", "routes": "route", "certificates": "certificate"}
"""Fields of a principal whose flag is named otherwise."""
_FORMS = {
    "name": "use letters, digits, and . _ @ - inside, at most 63 characters",
    "task": "write a task's name, in which * is anything: birds or birds-*",
    "route": "write TASK/NAME or NAME, in which * is anything: birds/prod or birds/*",
}


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A new token.

    Attributes:
        text: The token itself, which nobody can read again later.
        replaced: The tokens that it replaces, as they are from now on.
    """

    principal: Principal
    token: StoredToken
    text: Secret
    replaced: tuple[StoredToken, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Revoked:
    """What nobody can use any more.

    Attributes:
        tokens: Those that counted until now.
        certificates: Names in certificates that were the principal's until now.
    """

    principal: Principal
    tokens: tuple[StoredToken, ...]
    certificates: tuple[str, ...]


@dataclass
class Draft:
    """The principals of a file while they are changed.

    Args:
        known: As the file says.
        now: The time of the change.
    """

    known: Principals
    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def create(self, name: str, rights: dict[str, Any], *, lifetime_s: float | None) -> Issued:
        """Issues a token: for a new principal with its rights, or one more for one that is there.

        Args:
            rights: Fields of the new principal; empty adds a token to one that is there.

        Raises:
            Conflict: There is such a principal, and rights are given.
            NotFound: There is none, and no scopes are given.
            InvalidInput: A right is not one; names the flag.
        """
        there = self._by_name(name)
        principal = self.add(name, rights) if there is None or rights else there
        return self._issue(principal, lifetime_s=lifetime_s)

    def add(self, name: str, rights: dict[str, Any]) -> Principal:
        """Adds a principal without a token; see `create`."""
        there = self._by_name(name)
        if there is not None:
            raise Conflict(
                f"{_quoted(name)} is a principal already, which may do {', '.join(there.scopes)}",
                field="name",
                remedy="give the name alone to add a token, or change what it may do in the file",
            )
        if tokens.parse(name) is not None:
            raise InvalidInput(
                "it is a token, where a name is expected",
                field="name",
                remedy="choose a name that all may see",
            )
        if not rights.get("scopes"):
            raise NotFound(
                f"there is no principal {_quoted(name)} yet, and a new one needs a scope",
                field="scope",
                remedy=near(name, self._names) or "add --scope infer, --scope feedback or --scope admin",
            )
        principal = _principal(name, rights)
        self._keep(principal)
        return principal

    def rotate(self, which: str, *, lifetime_s: float | None, overlap_s: float) -> Issued:
        """Issues a token in the place of a principal's, or of one of them, which end after an overlap.

        Args:
            which: The principal's name, or a token's id.
            lifetime_s: Of the new token; None is that of the newest token that it replaces.

        Raises:
            NotFound: Neither a principal nor a token has that name.
            InvalidInput: There is no token that still counts.
        """
        principal, chosen = self.find(which)
        counting = [token for token in chosen if self.counts(token)]
        if not counting:
            raise InvalidInput(
                f"no token of {_quoted(which)} counts any more",
                field="which",
                remedy=f"issue one: corolla tokens create {principal.name}",
            )
        end = _later(self.now, overlap_s)
        replaced = tuple(
            token.model_copy(update={"expires": end if token.expires is None else min(end, token.expires)})
            for token in counting
        )
        if lifetime_s is None:
            lifetime_s = _lifetime_s(max(counting, key=lambda token: token.created))
        return self._issue(_with(principal, replaced), lifetime_s=lifetime_s, replaced=replaced)

    def revoke(self, which: str) -> Revoked:
        """Ends a token now, or all that a principal can show; repeating it changes nothing.

        Args:
            which: The principal's name, or a token's id.

        Raises:
            NotFound: Neither a principal nor a token has that name.
        """
        principal, chosen = self.find(which)
        ended = tuple(token.model_copy(update={"revoked": True}) for token in chosen)
        certificates = principal.certificates if principal.name == which else ()
        changed = _with(principal, ended)
        if certificates:
            changed = changed.model_copy(update={"certificates": ()})
        self._keep(changed)
        counted = tuple(token for token in chosen if self.counts(token))
        return Revoked(principal=changed, tokens=counted, certificates=certificates)

    def find(self, which: str) -> tuple[Principal, Sequence[StoredToken]]:
        """A principal with all its tokens, by its name, or with one of them, by the id.

        Raises:
            NotFound: Neither a principal nor a token has that name.
            Conflict: One has that name, and another one's token that id.
        """
        by_name = self._by_name(which)
        by_id = [(p, [t]) for p in self.known.principals for t in p.tokens if t.id == which]
        if by_name is not None and by_id:
            raise Conflict(f"{which!r} is a principal's name and a token's id", field="which")
        if by_name is not None:
            return by_name, by_name.tokens
        if by_id:
            return by_id[0]
        remedy = near(which, [*self._names, *(t.id for p in self.known.principals for t in p.tokens)])
        raise NotFound(
            f"there is neither a principal nor a token {_quoted(which)}",
            field="which",
            remedy=remedy or "look at `corolla tokens list`",
        )

    def counts(self, token: StoredToken) -> bool:
        """Whether a token is of any use now."""
        return not token.revoked and (token.expires is None or token.expires > self.now)

    def _issue(
        self, principal: Principal, *, lifetime_s: float | None, replaced: tuple[StoredToken, ...] = ()
    ) -> Issued:
        expires = None if lifetime_s is None else _later(self.now, lifetime_s)
        text, stored = tokens.issue(created=self.now, expires=expires)
        changed = principal.model_copy(update={"tokens": (*principal.tokens, stored)})
        self._keep(changed)
        return Issued(principal=changed, token=stored, text=Secret(text), replaced=replaced)

    def _keep(self, principal: Principal) -> None:
        others = [other for other in self.known.principals if other.name != principal.name]
        place = next(
            (i for i, other in enumerate(self.known.principals) if other.name == principal.name), len(others)
        )
        others.insert(place, principal)
        self.known = self.known.model_copy(update={"principals": tuple(others)})

    def _by_name(self, name: str) -> Principal | None:
        return next((principal for principal in self.known.principals if principal.name == name), None)

    @property
    def _names(self) -> list[str]:
        return [principal.name for principal in self.known.principals]


@contextmanager
def changing(path: Path, *, create: bool = False) -> Iterator[Draft]:
    """The principals of a file, for the block to change; the file is written when the block ends well.

    Others who change it at the same time wait.

    Args:
        create: Whether a file that is not there is written; else it is an error.

    Raises:
        NotFound: The file, or its folder, is not there.
        InvalidInput: It is not a file of principals, or cannot be written.
    """
    with _alone(path):
        draft = Draft(Principals() if create and not path.exists() else read(path))
        before = draft.known
        yield draft
        if draft.known != before:
            draft.known.write(path)


def read(path: Path) -> Principals:
    """The principals of a file.

    Raises:
        NotFound: It is not there.
        InvalidInput: It is not a file of principals.
    """
    if not path.exists():
        raise NotFound(
            f"{path} does not exist",
            field=FIELD,
            remedy="make it: corolla tokens create NAME --scope infer, with --principals",
        )
    return Principals.read(path)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """A block that no other process runs for the same file; the lock is on its folder, and leaves nothing."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise NotFound(
            f"{path.parent} is not a folder that can be opened", field=FIELD, remedy="make it first"
        ) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _principal(name: str, rights: dict[str, Any]) -> Principal:
    try:
        return Principal(name=name, **rights)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = str(first["loc"][0])
        flag = _FLAGS.get(place, place)
        problem = first["msg"][:1].lower() + first["msg"][1:]
        if flag in _FORMS:
            problem = f"{_quoted(str(first['input']))} is not a {flag}"
        raise InvalidInput(problem, field=flag, remedy=_FORMS.get(flag)) from None


def _with(principal: Principal, changed: Sequence[StoredToken]) -> Principal:
    """A principal with some of its tokens changed."""
    by_id = {token.id: token for token in changed}
    return principal.model_copy(update={"tokens": tuple(by_id.get(t.id, t) for t in principal.tokens)})


def _later(now: datetime, seconds: float) -> datetime:
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidInput(
            "the end is beyond all calendars", field="expires", remedy="leave it out for no end"
        ) from None


def _lifetime_s(token: StoredToken) -> float | None:
    return None if token.expires is None else (token.expires - token.created).total_seconds()


def _quoted(text: str) -> str:
    """A name or an id for an error, but nothing that may be a secret."""
    return "'cor_...'" if "cor_" in text.lower() else repr(text)
