"""The tokens that the metrics port asks for: a file with one a line, so that one can follow another."""

import base64
import binascii
import hmac
from pathlib import Path

from petl_vit.errors import InvalidInput

FIELD = "metrics_token_file"
_SHORTEST = 16  # characters
_MOST_BYTES = 64 * 2**10


class PortTokens:
    """A file of tokens, read anew for each question: scrapes are rare, and a renewed token counts at once."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[bytes]:
        """The tokens.

        Raises:
            InvalidInput: It cannot be read, has none, or one that is too short.
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(_MOST_BYTES)
        except OSError as error:
            problem = f"{self._path} cannot be read: {(error.strerror or str(error)).lower()}"
            raise InvalidInput(problem, field=FIELD, remedy="name a file with one token a line") from error
        tokens = [line.strip() for line in data.splitlines() if line.strip()]
        if not tokens or min(map(len, tokens)) < _SHORTEST:
            what = "has no token" if not tokens else f"has a token of fewer than {_SHORTEST} characters"
            remedy = "make one with `openssl rand -hex 32`"
            raise InvalidInput(f"{self._path} {what}", field=FIELD, remedy=remedy)
        return tokens

    def allow(self, authorization: str) -> bool:
        """Whether an `Authorization` header shows one of them, as bearer or as the password of basic.

        Raises:
            InvalidInput: The file cannot be used now.
        """
        shown = _shown(authorization)
        return shown is not None and any(hmac.compare_digest(shown, token) for token in self.read())


def _shown(authorization: str) -> bytes | None:
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    match scheme.lower():
        case "bearer":
            return value.encode("utf-8", "replace")
        case "basic":
            try:
                return base64.b64decode(value, validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return None
    return None
