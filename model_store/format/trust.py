"""Who may vouch for adapters: public keys and digests, one a line of a file.

ssh-ed25519 AAAAC3Nza... the release team
4be1c0...64 hexadecimal digits   an adapter's digest, whoever made it
# a comment
"""

import logging
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from model_store.format.records import Manifest
from model_store.format.signature import KIND, Signature, fingerprint, is_key
from model_store.names import DIGEST
from petl_vit.errors import CorollaError, InvalidInput, NotFound, Untrusted

_log = logging.getLogger(__name__)

FIELD = "trusted_keys"
_LARGEST = 2**20
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """What is trusted.

    Attributes:
        keys: Public keys in base64, with what the file calls them.
        digests: Of adapters that need no signature.
    """

    keys: dict[str, str]
    digests: frozenset[str]

    @classmethod
    def parse(cls, text: str, name: str) -> "Trusted":
        """What a file says.

        Args:
            name: The file's, for errors.

        Raises:
            InvalidInput: A line is neither a key nor a digest, or there is none; names the line.
        """
        keys: dict[str, str] = {}
        digests: set[str] = set()
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split(maxsplit=2)
            if not words or words[0].startswith("#"):
                continue
            if words[0] == KIND and len(words) > 1 and is_key(words[1]):
                keys[words[1]] = words[2].strip() if len(words) > 2 else fingerprint(words[1])
            elif re.fullmatch(DIGEST, words[0]):
                digests.add(words[0])
            else:
                raise InvalidInput(
                    f"line {number} of {name} is neither a public key nor a digest",
                    field=FIELD,
                    remedy=f"write the line of a .pub file, `{KIND} AAAA...`, or 64 hexadecimal digits",
                )
        if not keys and not digests:
            problem = f"{name} names no key and no digest, so no adapter could be loaded"
            raise InvalidInput(problem, field=FIELD, remedy="add the line of a .pub file")
        return cls(keys=keys, digests=frozenset(digests))

    def voucher(self, manifest: Manifest, data: bytes, signatures: Iterable[Signature]) -> str:
        """Who vouches for a version: what the file calls the key, or `its digest`.

        Args:
            data: The manifest's file.

        Raises:
            Untrusted: Nobody does; says whose signatures there are.
        """
        if manifest.digest in self.digests:
            return "its digest"
        others = []
        for signature in signatures:
            if signature.key not in self.keys:
                others.append(fingerprint(signature.key) if is_key(signature.key) else "no key")
            elif signature.is_of(data):
                return self.keys[signature.key]
            else:
                others.append(f"{self.keys[signature.key]}, but of another manifest")
        by = f" (it has signatures by {'; '.join(others[:4])})" if others else " (it has no signature)"
        raise Untrusted(
            f"nobody who is trusted vouches for {manifest}{by}",
            field=FIELD,
            remedy="sign it with `corolla adapters sign --key FILE`, or add a key or its digest to the file",
        )


class TrustedKeys:
    """The trusted keys of a file, followed: a changed file is read again, a damaged one changes nothing.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It cannot be read, or others may write it.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, Lock()
        self._stamp: _Stamp | None = None
        self._trusted = self._read()

    def now(self) -> Trusted:
        """What is trusted at this moment."""
        with self._lock:
            try:
                if self._stamp_now() != self._stamp:
                    self._trusted = self._read()
                    _log.info("trusted keys were read again")
            except CorollaError as error:
                _log.error("trusted keys stay as they were: %s", error)
        return self._trusted

    def _stamp_now(self) -> _Stamp:
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            raise NotFound(f"there is no file {self._path}", field=FIELD) from None
        except OSError as error:
            raise self._unreadable(error) from error
        if not stat.S_ISREG(found.st_mode) or found.st_mode & _OTHERS_MAY_WRITE:
            problem = f"others may write {self._path}, or it is not a file"
            raise InvalidInput(problem, field=FIELD, remedy=f"run chmod go-w {self._path}")
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> Trusted:
        stamp = self._stamp_now()
        if stamp[1] > _LARGEST:
            raise InvalidInput(
                f"{self._path} has {stamp[1]:,} bytes, at most {_LARGEST:,} are read", field=FIELD
            )
        try:
            trusted = Trusted.parse(self._path.read_text(encoding="utf-8"), str(self._path))
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error
        self._stamp = stamp
        return trusted

    def _unreadable(self, error: Exception) -> InvalidInput:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        return InvalidInput(f"{self._path} cannot be read ({why})", field=FIELD)
