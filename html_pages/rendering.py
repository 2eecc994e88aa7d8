"""A folder's template, style and script as one HTML file that needs nothing else: no network, no fonts.

The folder is a package with `page.html.jinja`, `style.css` and a script. The template is given `style`, which
is this folder's with its own after it, `script`, and `script_hash` for the policy that allows no other.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from html_pages.palette import DARK, LIGHT, css

_SHARED: Final = "html_pages"


def rendered(
    folder: str, *, script: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any
) -> str:
    """The page of a folder.

    Args:
        folder: The package, as in `training.study.report.page`.
        script: The name of its script.
        filters: Of the template, beside `code`. A folder has the same ones at every call.
        values: What the template is about. All text is escaped.
    """
    text = _file(folder, script)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return _template(folder, tuple((filters or {}).items())).render(
        style=_style(folder), script=text, script_hash=f"sha256-{digest}", **values
    )


def code(text: str) -> Markup:
    """Text in which what stands between backticks is code, and a number keeps its per cent sign."""
    text = re.sub(r"(\d) %", "\\1\u00a0%", text)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


@cache
def _template(folder: str, filters: tuple[tuple[str, Callable[..., Any]], ...]) -> Template:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"code": code, **dict(filters)}
    return environment.from_string(_file(folder, "page.html.jinja"))


@cache
def _style(folder: str) -> str:
    shared = _file(_SHARED, "style.css").replace("{{ light }}", css(LIGHT)).replace("{{ dark }}", css(DARK))
    return f"{shared}{_file(folder, 'style.css')}"


@cache
def _file(folder: str, name: str) -> str:
    return files(folder).joinpath(name).read_text("utf-8")
