"""What decides whether an adapter is trusted: files of keys, signatures and private keys, by the first byte."""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from fuzz.targets import record
from model_store.format.records import Manifest
from model_store.format.signature import Signature, SigningKey, create_key
from model_store.format.trust import Trusted
from petl_vit.errors import Corrupt, InvalidInput, Unsupported, Untrusted

_FOLDER = Path(tempfile.mkdtemp(prefix="corolla-fuzz-"))
_LINE = create_key(_FOLDER / "key", "me")
_KEY = SigningKey.read(_FOLDER / "key")
_DATA = next(seed[1:] for seed in record.seeds() if record.KINDS[seed[0]] is Manifest)
_MANIFEST = Manifest.parse(_DATA, "key")
_OTHER = _DATA + b" "
"""Another manifest: whoever signed it signed nothing else."""


def seeds() -> list[bytes]:
    signature = Signature(key=_KEY.public, signature="AAAA", signed_at=datetime(2026, 1, 1, tzinfo=UTC))
    lines = f"# keys\n{_LINE}\n{'0' * 64} a digest\n"
    pem = (_FOLDER / "key").read_bytes()
    return [
        b"\0" + lines.encode(),
        b"\1" + signature.encode(),
        b"\1" + _KEY.sign(_OTHER).encode(),
        b"\2" + pem,
    ]


def check(data: bytes) -> None:
    if not data:
        return
    kind, rest = data[0] % 3, data[1:]
    try:
        if kind == 0:
            Trusted.parse(rest.decode(), "keys")
        elif kind == 1:
            _check_signature(rest)
        else:
            path = _FOLDER / "fuzzed"
            path.touch(0o600)
            path.write_bytes(rest)
            SigningKey.read(path)
    except (InvalidInput, Corrupt, Unsupported, UnicodeDecodeError):
        return


def _check_signature(data: bytes) -> None:
    """No bytes that were not made with the key are a signature of the manifest."""
    signature = Signature.parse(data, "key")
    trusted = Trusted(keys={_KEY.public: "me"}, digests=frozenset())
    try:
        voucher = trusted.voucher(_MANIFEST, _DATA, [signature])
    except Untrusted:
        return
    raise AssertionError(f"{voucher} vouches by {json.dumps(signature.signature)}")
