"""The colours of every page: one palette for light, one for dark.

Contrast with both backgrounds is 4.5 or more in both palettes; a test holds it.
"""

from typing import Final

LIGHT: Final = {
    "paper": "#ffffff",
    "panel": "#f4f6f8",
    "ink": "#1b2026",
    "muted": "#56616c",
    "line": "#d3d9df",
    "accent": "#0b5cad",
    "good": "#1a7346",
    "bad": "#b3261e",
    "grey": "#5c6670",
    "red": "#c0392b",
    "green": "#1b7f4d",
    "blue": "#1f6fb2",
    "orange": "#a85400",
    "purple": "#8a4fb0",
    "teal": "#0d7682",
}
DARK: Final = {
    "paper": "#13171b",
    "panel": "#1c2228",
    "ink": "#e7ebef",
    "muted": "#a3aeb9",
    "line": "#3a444e",
    "accent": "#77b7f5",
    "good": "#6cd09b",
    "bad": "#ff8a80",
    "grey": "#a7b0b9",
    "red": "#f07f74",
    "green": "#63c894",
    "blue": "#6cb4f0",
    "orange": "#f2a65a",
    "purple": "#c79be8",
    "teal": "#57c5d0",
}


def css(palette: dict[str, str]) -> str:
    """A palette as the declarations of its variables."""
    return "\n".join(f"  --{name}: {value};" for name, value in palette.items())
