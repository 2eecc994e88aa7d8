"""Prediction ids: what feedback needs to know of an answer, carried by the client and authenticated here.

A label may arrive days later and at any replica that has the same key, so answers are not stored: the id
itself says what was predicted, and an HMAC (SHA-256, cut to 128 bits) proves that this server wrote it.
Whoever has an id can read its content, which names no image. Imports no torch and no gRPC.
"""

import base64
import binascii
import hmac
import json
import secrets
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from model_store.place.whole_file import write_whole
from petl_vit.errors import InvalidInput

MAX_LENGTH = 8192
KEY_BYTES = 32
_MAC_BYTES = 16
_NONCE_BYTES = 8
_DIGEST_DIGITS = 32
# Authenticated with every payload: a change of the payload's form needs another, so that ids are not misread.
_FORM = b"corolla prediction 2\n"
_FORM_WITHOUT_INCLUSION = b"corolla prediction 1\n"
_FIRST = "c"  # never `-`, which a command line would take for a flag


def new_nonce() -> str:
    """A name for a prediction that no other one has."""
    return secrets.token_hex(_NONCE_BYTES)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answer, as far as counting its label needs it.

    Attributes:
        route: The route's label in the metrics; `domain` likewise.
        task_digest: 64 hexadecimal digits when sealed; the first 32 of them when opened.
        predicted: The answered class.
        votes: Each member's class, in the order of the route's members; None where a cascade did not ask it.
        members: The labels of a named route's members; empty for any other, and where a cascade asked only
            those that its answer needed, so that their accuracies would not be comparable.
        confidence: Probability of the answered class, rounded to six decimals.
        created_at: Seconds since the epoch, rounded to milliseconds.
        nonce: Names this prediction among all.
        inclusion: How likely it was that its label would be requested; None where it was not requested.
    """

    route: str
    domain: str
    task: str
    task_digest: str
    predicted: int
    votes: tuple[int | None, ...]
    members: tuple[str, ...] = ()
    confidence: float
    created_at: float
    nonce: str = field(default_factory=new_nonce)
    inclusion: float | None = None


_FIELDS = tuple(field.name for field in fields(Prediction))
_FORMS = {_FORM: _FIELDS, _FORM_WITHOUT_INCLUSION: _FIELDS[:-1]}
"""What the payload of each form says, in order. Labels of ids of an older form arrive for weeks."""


class PredictionIds:
    """Seals predictions into ids and opens them again.

    Args:
        key: Seals.
        also: Older and newer keys, whose ids are opened too: so keys change without a lost label.

    Raises:
        InvalidInput: A key is shorter than 32 bytes.
    """

    def __init__(self, key: bytes, *also: bytes) -> None:
        self._keys = (key, *also)
        for each in self._keys:
            if len(each) < KEY_BYTES:
                raise InvalidInput(
                    f"{len(each)} bytes; a key has at least {KEY_BYTES}", field="prediction_key_file"
                )

    def seal(self, prediction: Prediction) -> str:
        """The id of a prediction: URL-safe text of a few hundred characters."""
        rounded = replace(
            prediction,
            task_digest=prediction.task_digest[:_DIGEST_DIGITS],
            confidence=round(prediction.confidence, 6),
            created_at=round(prediction.created_at, 3),
        )
        said = [getattr(rounded, name) for name in _FIELDS]  # `astuple` would copy every vote
        payload = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()
        prediction_id = _encode(_mac(self._keys[0], _FORM, payload) + payload)
        assert len(prediction_id) <= MAX_LENGTH, f"{len(prediction_id)} characters could not be opened again"
        return prediction_id

    def open(self, prediction_id: str) -> Prediction:
        """The prediction of an id.

        Raises:
            InvalidInput: It was not sealed with one of these keys, or was altered since.
        """
        raw = _decode(prediction_id)
        mac, payload = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        for form, names in _FORMS.items():
            if any(hmac.compare_digest(mac, _mac(key, form, payload)) for key in self._keys):
                fields = dict(zip(names, json.loads(payload), strict=True))
                votes, members = tuple(fields["votes"]), tuple(fields["members"])
                return Prediction(**{**fields, "votes": votes, "members": members})
        raise _refused("not a prediction id of this server, or altered")


def _mac(key: bytes, form: bytes, payload: bytes) -> bytes:
    return hmac.digest(key, form + payload, "sha256")[:_MAC_BYTES]


def key_from(path: Path, *, create: bool = True) -> bytes:
    """The key in a file, which is created if it is missing; processes that start at once agree on one key.

    Args:
        create: False where a missing file is an error: an older key cannot be made anew.

    Raises:
        InvalidInput: The file holds no key, or cannot be read or created.
    """
    try:
        if create and not path.exists():
            _create(path)
        key = path.read_bytes()
    except OSError as error:
        problem = f"{path}: {(error.strerror or str(error)).lower()}"
        remedy = "name a file that this user may read and create"
        raise InvalidInput(problem, field="prediction_key_file", remedy=remedy) from error
    if len(key) != KEY_BYTES:
        problem = f"{path} holds {len(key)} bytes; a key has {KEY_BYTES}"
        remedy = "delete it, and a new key is made; ids of the old key become invalid"
        raise InvalidInput(problem, field="prediction_key_file", remedy=remedy)
    return key


def _create(path: Path) -> None:
    """Creates the file whole or not at all, readable by its owner; never replaces another process's."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with write_whole(path, mode=0o600, replace=False) as draft:
        draft.write_bytes(secrets.token_bytes(KEY_BYTES))


def _encode(raw: bytes) -> str:
    return _FIRST + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(prediction_id: str) -> bytes:
    if len(prediction_id) > MAX_LENGTH:
        raise _refused(f"{len(prediction_id)} characters; a prediction id has at most {MAX_LENGTH}")
    try:
        text = prediction_id.removeprefix(_FIRST).encode("ascii")
        raw = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error) as error:
        raise _refused("not a prediction id") from error
    # The decoder ignores foreign characters and unused bits; only the exact text is accepted.
    if _encode(raw) != prediction_id:
        raise _refused("not a prediction id")
    return raw


def _refused(problem: str) -> InvalidInput:
    remedy = "send back a prediction_id as this server returned it"
    return InvalidInput(problem, field="prediction_id", remedy=remedy)
