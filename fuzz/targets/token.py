"""Bearer tokens, as a call's `authorization`: nobody is let in whom no token was given."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from petl_vit.errors import Unauthenticated
from serving.access import tokens
from serving.access.authentication import Access
from serving.access.principals import Principal, Scope
from serving.access.principals_file import Principals

_TEXT, _STORED = tokens.issue(created=datetime(2026, 1, 1, tzinfo=UTC))
_OTHER, _ = tokens.issue(created=datetime(2026, 1, 1, tzinfo=UTC))


def _access() -> Access:
    path = Path(tempfile.mkdtemp(prefix="corolla-fuzz-")) / "principals.toml"
    Principals(principals=(Principal(name="me", scopes=(Scope.INFER,), tokens=(_STORED,)),)).write(path)
    return Access(path)


_ACCESS = _access()


def seeds() -> list[bytes]:
    id_and_other = f"{_TEXT.rpartition('_')[0]}_{_OTHER[-43:]}"
    return [f"Bearer {text}".encode() for text in (_OTHER, id_and_other, "", "cor__")]


def check(data: bytes) -> None:
    for value in (data, data.decode(errors="replace")):
        try:
            caller = _ACCESS.by_header(value)
        except Unauthenticated as error:
            if _TEXT in str(error):
                raise AssertionError("an error repeats a token") from error
            continue
        assert _TEXT in data.decode(), f"{caller.principal.name} was let in"
