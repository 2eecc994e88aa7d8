"""Signatures of adapters: who vouches for a version, by Ed25519 over its manifest.

The manifest has the digest of the tensors, so a signature covers all of a version: what it computes, under
which task, name and number it is known, and its temperature. Keys are those of OpenSSH, so that
`ssh-keygen -t ed25519` makes them too. Imports the library only where something is signed or checked.
"""

import base64
import binascii
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import AwareDatetime

from model_store.format.records import StoredRecord
from model_store.place.whole_file import write_whole
from petl_vit.errors import CorollaError, InvalidInput, NotFound

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KIND = "ssh-ed25519"
_FORM = b"corolla adapter signature 1\n"
_NOT_OURS = 0o077
_LONGEST = 16_384
_HOW = "make one with `corolla keys create FILE`, or with ssh-keygen -t ed25519 and no passphrase"


class Signature(StoredRecord):
    """One signature: adapters/<task>/<name>/<version>/signatures/<key>.json.

    Attributes:
        key: The public key, in base64 as in a line of OpenSSH.
        signature: Of the manifest's file, in base64.
    """

    key: str
    signature: str
    signed_at: AwareDatetime

    def is_of(self, manifest: bytes) -> bool:
        """Whether this key signed that manifest's file, byte for byte."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_ssh_public_key

        try:
            public = load_ssh_public_key(f"{KIND} {self.key}".encode())
            assert isinstance(public, Ed25519PublicKey)
            public.verify(base64.b64decode(self.signature, validate=True), _signed(manifest))
        except (InvalidSignature, ValueError, AssertionError):
            return False
        return True


class SigningKey:
    """A private key that signs. Its text shows the public key alone."""

    def __init__(self, private: "Ed25519PrivateKey") -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._private = private
        text = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
        self.public = text.split()[1]

    def __repr__(self) -> str:
        return f"SigningKey({KIND} {self.public})"

    @classmethod
    def read(cls, path: Path) -> "SigningKey":
        """The key in a file of OpenSSH or PEM.

        Raises:
            NotFound: There is no such file.
            InvalidInput: Others may read it, or it is not an Ed25519 key without a passphrase.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

        data = _bytes_of(path)
        if path.stat().st_mode & _NOT_OURS:
            raise InvalidInput(f"others may read {path}", field="key", remedy=f"run chmod 600 {path}")
        load = load_ssh_private_key if b"OPENSSH" in data[:64] else load_pem_private_key
        try:
            private = load(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):  # what it says may hold parts of the key
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            problem = f"{path} is not a private Ed25519 key without a passphrase"
            raise InvalidInput(problem, field="key", remedy=_HOW)
        return cls(private)

    def sign(self, manifest: bytes) -> Signature:
        """The signature of a manifest's file."""
        signature = self._private.sign(_signed(manifest))
        text = base64.b64encode(signature).decode()
        return Signature(key=self.public, signature=text, signed_at=datetime.now(UTC))


def create_key(path: Path, comment: str = "") -> str:
    """Makes a key: the private one in `path`, for its owner alone, and the public one in `path`.pub.

    Returns:
        The public key as one line, as --trusted-keys takes it.

    Raises:
        InvalidInput: One of the files exists, or cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    private = Ed25519PrivateKey.generate()
    line = f"{KIND} {SigningKey(private).public} {comment}".strip()
    public = path.with_name(f"{path.name}.pub")
    for file in (path, public):
        if file.exists():
            raise InvalidInput(f"{file} exists", field="file", remedy="name another: no key is overwritten")
    data = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    try:
        for file, content, mode in ((path, data, 0o600), (public, f"{line}\n".encode(), 0o644)):
            with write_whole(file, mode=mode, replace=False) as draft:
                draft.write_bytes(content)
    except OSError as error:
        problem = f"{file} cannot be written ({error.strerror or error})"
        raise InvalidInput(problem, field="file", remedy="name a file in a folder of yours") from error
    return line


def name_of(key: str) -> str:
    """What a public key is called among files: the SHA-256 of it."""
    return hashlib.sha256(_decoded(key)).hexdigest()


def fingerprint(key: str) -> str:
    """What OpenSSH calls a public key: `SHA256:...`."""
    digest = hashlib.sha256(_decoded(key)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def is_key(text: str) -> bool:
    """Whether a text is the base64 of a public Ed25519 key of OpenSSH."""
    try:
        raw = _decoded(text)
    except CorollaError:
        return False
    name = KIND.encode()
    head = len(name).to_bytes(4, "big") + name + (32).to_bytes(4, "big")
    return raw.startswith(head) and len(raw) == len(head) + 32


def _decoded(key: str) -> bytes:
    try:
        return base64.b64decode(key, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"{key[:40]!r} is not a public key", field="key", remedy=_HOW) from error


def _signed(manifest: bytes) -> bytes:
    """What is signed: no other program of anybody signs bytes that begin so."""
    return _FORM + hashlib.sha256(manifest).digest()


def _bytes_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", field="key", remedy=_HOW) from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror or error})", field="key") from error
