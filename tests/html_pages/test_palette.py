"""The colours of pages."""

from itertools import product

import pytest

from html_pages.palette import DARK, LIGHT, css

SHADE = 0.45  # of blue in the darkest cell of a matrix, in style.css


def luminance(rgb: tuple[float, float, float]) -> float:
    """Relative, as WCAG 2 has it."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def rgb(text: str) -> tuple[float, float, float]:
    red, green, blue = (int(text[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def contrast(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_both_backgrounds(palette: dict[str, str]) -> None:
    grounds = ("paper", "panel")
    for name, ground in product(sorted(set(palette) - {*grounds, "line"}), grounds):
        assert contrast(rgb(palette[name]), rgb(palette[ground])) >= 4.5, (name, ground)
    shaded = tuple(
        SHADE * blue + (1 - SHADE) * paper
        for blue, paper in zip(rgb(palette["blue"]), rgb(palette["paper"]), strict=True)
    )
    assert contrast(rgb(palette["ink"]), shaded) >= 4.5  # type: ignore[arg-type]


def test_both_palettes_have_the_same_colours_and_become_variables() -> None:
    assert set(LIGHT) == set(DARK)
    assert css({"ink": "#000000", "paper": "#ffffff"}) == "  --ink: #000000;\n  --paper: #ffffff;"
