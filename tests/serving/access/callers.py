"""Principals with tokens for the tests, in a file, and clients that show them."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from serving.access import tokens
from serving.access.principals import Principal, StoredToken
from serving.access.principals_file import Principals
from serving.client.blocking import Client
from tests.serving.certificates import Certificates
from tests.serving.world import WAIT_S, Running

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ALL = ("infer", "feedback", "admin")


class Callers:
    """A file of principals, and the token that each was given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tokens: dict[str, str] = {}
        self._principals: dict[str, Principal] = {}

    def add(self, name: str, *scopes: str, token: dict[str, Any] | None = None, **fields: Any) -> str:
        """A principal with a token, which is returned; `token` changes what is stored of it."""
        text, stored = tokens.issue(created=NOW)
        changed = StoredToken.model_validate(dict(stored) | (token or {}))
        self._principals[name] = Principal.model_validate(
            {"name": name, "scopes": scopes or ("infer",), "tokens": (changed,)} | fields
        )
        self.tokens[name] = text
        return text

    def change(self, name: str, **fields: Any) -> None:
        """Changes a principal; the file says so at once."""
        self._principals[name] = Principal.model_validate(dict(self._principals[name]) | fields)
        self.write()

    def write(self) -> Path:
        Principals(principals=tuple(self._principals.values())).write(self.path)
        return self.path

    def header(self, name: str) -> tuple[tuple[str, str], ...]:
        """The metadata of a call by a principal."""
        return (("authorization", f"Bearer {self.tokens[name]}"),)

    def client(self, running: Running, name: str | None, certificates: Certificates) -> Client:
        """A client over TLS that shows the token of a principal, or none."""
        shown = grpc.ssl_channel_credentials(certificates.read("ca.pem"))
        if name is not None:
            token = grpc.access_token_call_credentials(self.tokens[name])
            shown = grpc.composite_channel_credentials(shown, token)
        return Client(running.address, credentials=shown, timeout_s=WAIT_S)


def secret_of(text: str) -> str:
    """The part of a token that nobody else may see."""
    token = tokens.parse(text)
    assert token is not None
    return token.secret


def expired() -> dict[str, Any]:
    return {"expires": NOW - timedelta(days=1), "created": NOW - timedelta(days=2)}


def broken(path: Path, text: str) -> None:
    """Writes over a file in place, as an editor does."""
    path.write_text(text)
    os.utime(path, ns=(1, 1))
