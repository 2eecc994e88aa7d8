"""The contents as one HTML file that needs nothing else: no network, no fonts, no scripts but its own."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from training.study.report.contents import Contents, Data
from training.study.report.theme import DARK, LIGHT, css

_FOLDER: Final = "training.study.report.page"


def html(contents: Contents) -> str:
    """The page."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"code": _code, "data_uri": data_uri, "slug": _slug}
    script = _file("sort.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = _file("style.css").replace("{{ light }}", css(LIGHT)).replace("{{ dark }}", css(DARK))
    return environment.from_string(_file("page.html.jinja")).render(
        page=contents, style=style, script=script, script_hash=f"sha256-{digest}"
    )


def data_uri(data: Data) -> str:
    """Numbers as a link that is the file itself."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(data.csv().encode()).decode()


def _code(text: str) -> Markup:
    """Text in which what stands between backticks is code, and a number keeps its per cent sign."""
    text = re.sub(r"(\d) %", "\\1\u00a0%", text)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _file(name: str) -> str:
    return files(_FOLDER).joinpath(name).read_text("utf-8")


def _slug(text: str) -> str:
    """An id made of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
