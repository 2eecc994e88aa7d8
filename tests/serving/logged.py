"""What the log says, read as JSON."""

import io
import json
from typing import Any


def lines(written: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]
