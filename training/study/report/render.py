"""The contents as one HTML file that needs nothing else: no network, no fonts, no scripts but its own."""

import base64
import re
from typing import Final

from html_pages.rendering import rendered
from training.study.report.contents import Contents, Data

_FOLDER: Final = "training.study.report.page"


def html(contents: Contents) -> str:
    """The page."""
    return rendered(_FOLDER, script="sort.js", filters={"data_uri": data_uri, "slug": _slug}, page=contents)


def data_uri(data: Data) -> str:
    """Numbers as a link that is the file itself."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(data.csv().encode()).decode()


def _slug(text: str) -> str:
    """An id made of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
