"""Bearer tokens: `cor_<id>_<secret>`, so that scanners for leaked secrets find them. No torch, no gRPC."""

import base64
import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import NamedTuple

from serving.access.principals import TOKEN_ID, StoredToken

PREFIX = "cor"
_SECRET_BYTES = 32
_TOKEN = re.compile(rf"{PREFIX}_({TOKEN_ID})_([A-Za-z0-9_-]{{43}})")


class Token(NamedTuple):
    """The parts of a token that a caller shows."""

    id: str
    secret: str

    def __repr__(self) -> str:
        return f"Token(id={self.id!r})"  # a secret is not for logs and tracebacks


def parse(text: str) -> Token | None:
    """The parts of a token; None where it is not one."""
    match = _TOKEN.fullmatch(text)
    return None if match is None else Token(*match.groups())


def issue(*, created: datetime, expires: datetime | None = None) -> tuple[str, StoredToken]:
    """A new token: its text, which is shown once, and what is kept of it."""
    token_id = base64.b32encode(secrets.token_bytes(5)).decode().lower()
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    stored = StoredToken(id=token_id, sha256=_hash(secret), created=created, expires=expires)
    return f"{PREFIX}_{token_id}_{secret}", stored


def fits(token: Token, stored: StoredToken) -> bool:
    """Whether a token is the one that was stored, in the same time whatever it is."""
    return hmac.compare_digest(_hash(token.secret), stored.sha256)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
