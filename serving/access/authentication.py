"""Authentication: from a token or a certificate's names to the principal that calls. No torch, no gRPC."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from petl_vit.errors import Forbidden, Unauthenticated
from serving.access import tokens
from serving.access.caller import Caller
from serving.access.limits import Limits
from serving.access.principals import Principal, Scope, StoredToken
from serving.access.principals_file import PrincipalsFile

HEADER = "authorization"
_SCHEME = "bearer"
_HOW = "send `authorization: Bearer TOKEN`, with a token by `corolla tokens create`"
_NEW = "ask for another one, by `corolla tokens create`"


class _Held(NamedTuple):
    """A token and whose it is."""

    principal: Principal
    token: StoredToken
    expires_at: float  # seconds since the epoch


@dataclass(frozen=True, kw_only=True)
class _Known:
    """The principals of one state of the file."""

    by_name: dict[str, Principal]
    by_token: dict[str, _Held]
    by_certificate: dict[str, Principal]

    @classmethod
    def of(cls, principals: Iterable[Principal]) -> "_Known":
        by_name = {principal.name: principal for principal in principals}
        return cls(
            by_name=by_name,
            by_token={
                token.id: _Held(
                    principal, token, math.inf if token.expires is None else token.expires.timestamp()
                )
                for principal in by_name.values()
                for token in principal.tokens
            },
            by_certificate={
                name: principal for principal in by_name.values() for name in principal.certificates
            },
        )


class Access:
    """Who may call a server, as its file of principals says now.

    Args:
        path: The file.
        clock: Seconds since the epoch.
        on_rows: Told the name of a principal and the rows that it was let send.

    Raises:
        InvalidInput: The file cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float] = time.time,
        on_rows: Callable[[str, int], None] = lambda name, rows: None,
    ) -> None:
        self._file, self._clock, self.on_rows = PrincipalsFile(path), clock, on_rows
        self._known = _Known.of(self._file.principals)
        self.limits = Limits()

    @property
    def principals(self) -> tuple[Principal, ...]:
        return tuple(self._known.by_name.values())

    def follow(self) -> bool:
        """Reads the file again if it has changed; whether the principals are others now. Blocking.

        Only for a program of one thread; others call `changed` in a pool and `use` where calls are counted.
        """
        principals = self.changed()
        if principals is not None:
            self.use(principals)
        return principals is not None

    def changed(self) -> Iterable[Principal] | None:
        """The principals of the file, if they are others than before. Blocking; uses them not yet."""
        return self._file.changed()

    def use(self, principals: Iterable[Principal]) -> None:
        """Uses other principals from now on. Called by the thread that counts calls."""
        self._known = _Known.of(principals)
        self.limits.keep(self._known.by_name)

    def by_header(self, value: str | bytes) -> Caller:
        """Whoever shows the value of an `authorization` header; see `by_token`."""
        if isinstance(value, bytes):
            value = value.decode("ascii", "replace")
        scheme, _, text = value.partition(" ")
        if scheme.lower() != _SCHEME:
            raise Unauthenticated("the authorization is not a bearer token", reason="malformed", remedy=_HOW)
        return self.by_token(text.strip())

    def by_token(self, text: str) -> Caller:
        """Whoever shows a token.

        Raises:
            Unauthenticated: It is not a token, or not one that counts now; the error does not repeat it.
        """
        token = tokens.parse(text)
        if token is None:
            raise Unauthenticated("the token does not have the form of one", reason="malformed", remedy=_HOW)
        held = self._known.by_token.get(token.id)
        if held is None or not tokens.fits(token, held.token):
            raise Unauthenticated("the token is not known here", reason="unknown_token", remedy=_HOW)
        return _Session(self, lambda: self._by_id(token.id))

    def by_certificate(self, names: Sequence[str]) -> Caller:
        """Whoever shows a certificate, which TLS has verified, with these names.

        Raises:
            Unauthenticated: None of them is a principal's.
        """
        return _Session(self, lambda: self._by_names(names))

    def nobody(self) -> Unauthenticated:
        """The error of a call that shows nothing."""
        return Unauthenticated("the call shows no token", reason="no_credentials", remedy=_HOW)

    def _by_id(self, token_id: str) -> Principal:
        """The principal of a token that was shown before."""
        held = self._known.by_token.get(token_id)
        if held is None or held.token.revoked:
            raise Unauthenticated("the token was revoked", reason="revoked", remedy=_NEW)
        if self._clock() >= held.expires_at:
            when = datetime.fromtimestamp(held.expires_at, UTC)
            raise Unauthenticated(
                f"the token has expired ({when:%Y-%m-%d %H:%M} UTC)", reason="expired", remedy=_NEW
            )
        return held.principal

    def _by_names(self, names: Sequence[str]) -> Principal:
        for name in names:
            if (principal := self._known.by_certificate.get(name)) is not None:
                return principal
        shown = ", ".join(name[:80] for name in names[:4]) or "no name"
        raise Unauthenticated(
            f"the certificate ({shown}) is not a principal's",
            reason="unknown_certificate",
            remedy="name it by `corolla tokens create NAME --certificate`, or send a token",
        )


class _Session:
    """A caller as long as its call lasts: a stream may outlive its token and its scope.

    Raises:
        Unauthenticated: It may not call.
    """

    def __init__(self, access: Access, look: Callable[[], Principal]) -> None:
        self._access, self._look = access, look
        self.principal = look()
        self._needed: Scope | None = None

    def need(self, scope: Scope) -> None:
        self._needed = scope
        if scope not in self.principal.scopes:
            raise Forbidden(
                f"{self.principal.name} does not have the scope {scope}",
                remedy=f"ask for a token with it, by `corolla tokens create --scope {scope}`",
            )

    def take_request(self) -> None:
        self.principal = self._look()
        if self._needed is not None:
            self.need(self._needed)
        self._access.limits.take_request(self.principal)

    def take_rows(self, rows: int) -> None:
        self._access.limits.take_rows(self.principal, rows)
        self._access.on_rows(self.principal.name, rows)

    def add_rows(self, rows: int) -> None:
        self._access.limits.add_rows(self.principal, rows)
        self._access.on_rows(self.principal.name, rows)
