"""Figures name the colours of the page and never state them, so that they follow its light and its dark.

Matplotlib needs a colour that it knows, so each name has a stand-in, which becomes the page's variable.
"""

from typing import Final

from html_pages.palette import LIGHT

SETS: Final = ("blue", "orange", "green", "purple", "red", "teal", "grey")
"""Colours of domains, in the order of the sets."""

_STAND_INS: Final = {name: f"#a1b2{number:02x}" for number, name in enumerate(LIGHT, start=16)}


def colour(name: str) -> str:
    """The stand-in of a colour, for matplotlib."""
    return _STAND_INS[name]


def themed(svg: str) -> str:
    """A drawing in which every stand-in is the page's variable of that name."""
    for name, stand_in in _STAND_INS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg
