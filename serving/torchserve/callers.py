"""Who calls a TorchServe: tokens of Corolla's principals, beside TorchServe's own tokens.

Knows TorchServe's conventions and none of its code. TorchServe hands a worker the headers of HTTP, but not
the metadata of gRPC, and where its own token authorisation is on, `Authorization` holds TorchServe's token.
So ours is looked for in the field `authorization`, in the header `X-Corolla-Authorization`, and then in
`Authorization`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petl_vit.errors import CorollaError, Forbidden, Unauthenticated
from serving.access.authentication import HEADER, Access
from serving.access.caller import ANYONE, Caller
from serving.access.principals import ANONYMOUS, Scope
from serving.metrics.events import Metrics
from serving.rpc.status import code_of
from serving.settings import Settings

FIELD = HEADER
OUR_HEADER = f"x-corolla-{HEADER}"
_HOW = f"send `Bearer TOKEN` as the header {OUR_HEADER}, or as the field {FIELD}"


class Callers:
    """Knows the callers of a worker, and counts what becomes of their requests.

    Without `principals` in the settings, anybody may ask.

    Raises:
        InvalidInput: The file of principals cannot be used.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._counts = metrics.callers
        self._access: Access | None = None
        if settings.principals is not None:
            self._access = Access(Path(settings.principals), on_rows=self._counts.rows)
            self._show()

    def follow(self) -> None:
        """Takes new tokens and leaves revoked ones out, as the file says now."""
        if self._access is not None and self._access.follow():
            self._show()

    def admit(self, row: Mapping[str, Any], headers: Mapping[str, Any]) -> Caller:
        """Whoever sent a request, once it may.

        Args:
            row: The request's fields.
            headers: Of its HTTP; of a form also what its parts say of themselves.

        Raises:
            Unauthenticated: It shows no token that counts.
            Forbidden: Its principal may not classify.
            Overloaded: Its principal has sent as many requests as it may.
        """
        if self._access is None:
            return ANYONE
        caller: Caller | None = None
        try:
            caller = _caller(self._access, _shown(row, headers))
            if Scope.INFER not in caller.principal.scopes:
                name = caller.principal.name
                raise Forbidden(
                    f"{name} does not have the scope {Scope.INFER}", remedy="ask with a token that has it"
                )
            caller.take_request()
        except CorollaError as error:
            self._refused(error, caller)
            raise
        return caller

    def answered(self, caller: Caller, error: BaseException | None) -> None:
        """Counts a request that was admitted by its outcome."""
        if caller.principal is not ANONYMOUS:
            code = "OK"
            if error is not None:
                code = code_of(error).name if isinstance(error, CorollaError) else "INTERNAL"
            self._counts.request(caller.principal.name, code)

    def _refused(self, error: CorollaError, caller: Caller | None) -> None:
        reason = "scope" if isinstance(error, Forbidden) else "requests"
        self._counts.refused(error.reason if isinstance(error, Unauthenticated) else reason)
        if caller is not None:
            self._counts.request(caller.principal.name, code_of(error).name)

    def _show(self) -> None:
        if self._access is not None:
            self._counts.add([principal.name for principal in self._access.principals])


def without_token(row: Mapping[str, Any]) -> dict[str, Any]:
    """A request's fields but for the one that says who sends it."""
    return {name: value for name, value in row.items() if name != FIELD}


def _caller(access: Access, shown: str | bytes | None) -> Caller:
    if shown is None:
        raise Unauthenticated("the request shows no token", reason="no_credentials", remedy=_HOW)
    try:
        return access.by_header(shown)
    except Unauthenticated as error:
        if error.reason != "malformed":
            raise
        raise Unauthenticated(error.problem, reason=error.reason, remedy=_HOW) from None


def _shown(row: Mapping[str, Any], headers: Mapping[str, Any]) -> str | bytes | None:
    field = row.get(FIELD)
    if isinstance(field, bytes | bytearray | str):
        return field if isinstance(field, str) else bytes(field)
    # What a part of a form says of itself is a map, under the part's name.
    texts = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    return texts.get(OUR_HEADER, texts.get(HEADER))
