"""JSON with one spelling per value: what is hashed where a record is part of an identity."""

import json

from pydantic import JsonValue

from model_store.names import printable
from petl_vit.errors import InvalidInput


def canonical_json(value: JsonValue) -> bytes:
    """One spelling per value: sorted keys, no white space, UTF-8, floats as Python prints them.

    Raises:
        InvalidInput: It holds NaN, an infinity or something that is not JSON.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except UnicodeEncodeError as error:
        start = max(0, error.start - 40)
        raise InvalidInput(
            f"a name is not UTF-8: {printable(error.object[start : error.end + 40])}",
            remedy="rename the file or the folder",
        ) from error
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"not representable as JSON: {error}") from error
