"""The bearer token that a client shows, from its text or from a file; no repr shows it. No gRPC."""

import re
from pathlib import Path

from petl_vit.errors import InvalidInput, NotFound
from serving.address import is_local
from serving.renewed_files import state_of

Token = str | Path
"""A token's text, or the path of a file that holds it."""

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What a bearer token may consist of (RFC 6750)."""
_LONGEST = 8000  # gRPC's servers take 8 KiB of metadata
_ID = re.compile(r"cor_([a-z2-7]{8})_")
_PATHS = ("/", "~", "./", "../")


class Secret(str):
    """Text that `repr` does not show: tracebacks with variables, debuggers and logs of them write that."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret(...)"


Metadata = tuple[tuple[str, str], ...]


class Bearer:
    """A token as the metadata of calls; one from a file is read again when the file has changed.

    A file that cannot be read then, as in the middle of its renewal, changes nothing: the last token goes on.

    Args:
        token: Its text, or the path of a file that holds nothing else.

    Raises:
        NotFound: The file does not exist.
        InvalidInput: It cannot be read, or holds something else than a token. The error never shows it.
    """

    def __init__(self, token: Token) -> None:
        self._path = token if isinstance(token, Path) else None
        self._secret, self._state = Secret(), None if self._path is None else state_of(self._path)
        if isinstance(token, Path):
            self._secret = _of_file(token)
        elif isinstance(token, str):
            self._secret = checked(token)
        else:
            raise InvalidInput(
                f"it is of type {type(token).__name__}",
                field="token",
                remedy="give its text, or a pathlib.Path of its file",
            )

    def __repr__(self) -> str:
        return f"Bearer({self.name})"

    @property
    def name(self) -> str:
        """What may be said of it: the public part of a token of Corolla's, else where it comes from."""
        public = _ID.match(self._secret)
        return public[1] if public else str(self._path or "given as text")

    def metadata(self) -> Metadata:
        """The metadata of one call."""
        if self._path is not None:
            state = state_of(self._path)
            if state is not None and state != self._state:
                self._reread(self._path, state)
        return (("authorization", Secret(f"Bearer {self._secret}")),)

    def _reread(self, path: Path, state: tuple[int, ...]) -> None:
        try:
            self._secret = _of_file(path)
        except (InvalidInput, NotFound):
            return  # as while it is written: the next call looks again
        self._state = state


def checked(text: str, field: str = "token") -> Secret:
    """A token's text without the line's end behind it.

    Raises:
        InvalidInput: It cannot be a bearer token. The error does not show it.
    """
    text = Secret(text.strip())
    if not text:
        raise InvalidInput("it is empty", field=field, remedy="give a token of `corolla tokens create`")
    if text[:7].lower() == "bearer ":
        raise InvalidInput("it begins with the word Bearer", field=field, remedy="give the token alone")
    if text.startswith(_PATHS):
        raise InvalidInput(
            "it is a path, where a token is expected",
            field=field,
            remedy="give pathlib.Path(...), --token-file or COROLLA_TOKEN_FILE",
        )
    if not _TOKEN.fullmatch(text) or len(text) > _LONGEST:
        lines = len(text.splitlines())
        problem = f"it has {lines} lines" if lines > 1 else "it is not a bearer token"
        raise InvalidInput(problem, field=field, remedy="give a token of `corolla tokens create`, alone")
    return text


def check_exposure(target: str, *, encrypted: bool, insecure: bool) -> None:
    """Refuses to send a token where others could read it.

    Raises:
        InvalidInput: The server is on another machine, and TLS is not spoken.
    """
    if not (encrypted or insecure or is_local(target)):
        raise InvalidInput(
            f"{target} would be sent the token in plain text",
            field="token",
            remedy="speak TLS (credentials=, --tls-ca); on a network you trust, insecure=True or --insecure",
        )


def _of_file(path: Path) -> Secret:
    if _ID.match(path.name):
        problem = "it is a token, where the path of a file with one is expected"
        raise InvalidInput(
            problem, field="token_file", remedy="write the token to a file, and revoke this one"
        )
    try:
        # An error of decoding would hold what was read; what replaces a character is not of a token either.
        text = Secret(path.read_bytes().decode("ascii", "replace"))
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist", field="token_file", remedy="check the path") from error
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read ({(error.strerror or str(error)).lower()})",
            field="token_file",
            remedy="name a file that you may read",
        ) from error
    try:
        return checked(text, "token_file")
    except InvalidInput as error:
        problem = f"{path} holds no token: {error.problem}"
        raise InvalidInput(problem, field="token_file", remedy=error.remedy) from error
