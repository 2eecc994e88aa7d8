"""Matplotlib's figures as SVG that belongs to the page: in its fonts and colours, and said in words.

Every figure is drawn twice, `WIDE` for screens and paper and `NARROW` for telephones, so that text keeps its
size. Lengths are CSS pixels: matplotlib writes 72 units an inch, and the page shows one unit as one pixel.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullLocator

from training.study.report.theme import colour, themed


@dataclass(frozen=True, kw_only=True)
class Width:
    """For which screens a drawing is made.

    Attributes:
        pixels: Its width.
        text: Size of its text in pixels.
    """

    name: str
    pixels: int
    text: float

    @property
    def narrow(self) -> bool:
        return self.pixels < 500


WIDE: Final = Width(name="wide", pixels=880, text=13)
NARROW: Final = Width(name="narrow", pixels=350, text=11.5)
Draw = Callable[[Width], Canvas]

_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",  # text stays text: to be searched, copied, themed and read aloud
    "svg.hashsalt": "corolla",  # the same figure has the same ids
    "text.parse_math": False,  # a dollar in the name of a class is a dollar
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 10 / 72,  # a browser's font may be wider than the one that is measured
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": colour("line"),
    "axes.labelcolor": colour("ink"),
    "axes.titlecolor": colour("ink"),
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": colour("line"),
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "text.color": colour("ink"),
    "xtick.color": colour("line"),
    "ytick.color": colour("line"),
    "xtick.labelcolor": colour("muted"),
    "ytick.labelcolor": colour("muted"),
}


def drawn(draw: Draw, key: str, title: str, alt: str) -> tuple[str, str]:
    """A figure for wide and for narrow screens, as SVG elements.

    Args:
        draw: Draws it for a width.
        key: Unique on the page; ids begin with it.
        title, alt: What is shown, and what it says, for people who do not see it.
    """
    wide, narrow = (_svg(draw, width, key, title, alt) for width in (WIDE, NARROW))
    return wide, narrow


def panels(
    width: Width,
    height: float,
    count: int = 1,
    *,
    columns: int = 1,
    share_y: bool = True,
    share_x: bool = True,
) -> tuple[Canvas, list[Axes]]:
    """A canvas with so many axes in rows of at most `columns`; `height` pixels for each row."""
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    canvas = Canvas(figsize=(width.pixels / 72, rows * height / 72))
    axes = canvas.subplots(rows, columns, squeeze=False, sharex=share_x, sharey=share_y).ravel()
    for spare in axes[count:]:
        spare.remove()
    return canvas, list(axes[:count])


def percent_axis(axes: Axes, which: str = "x") -> None:
    """Ticks of an axis of shares as per cents."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g} %"))


def size_axis(axes: Axes, smallest: float) -> None:
    """A logarithmic x axis of numbers of parameters, with 0 at its left end where there is one."""
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: magnitude(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def magnitude(value: float) -> str:
    """A number of parameters as 0, 512, 38k, 0.59M or 85.8M."""
    if value >= 1e6:
        return f"{value / 1e6:.3g}M"
    return f"{value / 1e3:.3g}k" if value >= 1e3 else f"{value:.3g}"


def label_below(canvas: Canvas, handles: Sequence[Any], labels: Sequence[str], width: Width) -> None:
    """A legend under the axes, in as many columns as there is room for."""
    longest = max((len(label) for label in labels), default=1)
    columns = max(1, min(len(labels), int(width.pixels / (width.text * (0.56 * longest + 2.8)))))
    canvas.legend(
        handles, labels, loc="outside lower left", ncols=columns, handletextpad=0.4, columnspacing=1.2
    )


def arranged(canvas: Canvas) -> None:
    """Give every part of a canvas its final place; what is drawn later finds it there."""
    engine = canvas.get_layout_engine()
    if engine is not None:
        canvas.set_dpi(72)
        engine.execute(canvas)
        canvas.set_layout_engine("none")  # or saving would do it twice more


@contextmanager
def _styled(width: Width) -> Iterator[None]:
    sizes = dict.fromkeys(
        ("font.size", "axes.labelsize", "axes.titlesize", "xtick.labelsize", "ytick.labelsize"), width.text
    )
    style: Any = _STYLE | sizes | {"legend.fontsize": width.text}
    with mpl.rc_context(style), warnings.catch_warnings():
        # Names in scripts that matplotlib's own font lacks are drawn by the reader's browser.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _svg(draw: Draw, width: Width, key: str, title: str, alt: str) -> str:
    out = io.StringIO()
    with _styled(width):
        canvas = draw(width)
        arranged(canvas)
        to_svg: Any = FigureCanvasSVG(canvas)  # has no types; `savefig` would draw twice
        to_svg.print_svg(out, metadata={"Date": None})
    return _embedded(themed(out.getvalue()), f"{key}-{width.name}", width, title, alt)


_OPENING = re.compile(r'<svg [^>]*viewBox="([^"]+)"[^>]*>')
_IDS = re.compile(r'(\bid="|url\(#|href="#)')


def _embedded(svg: str, key: str, width: Width, title: str, alt: str) -> str:
    """An SVG file as an element of a page."""
    opening = _OPENING.search(svg)
    assert opening is not None, "matplotlib writes a view box"
    body = re.sub(r"<metadata>.*?</metadata>", "", svg[opening.end() :], count=1, flags=re.DOTALL)
    body = _IDS.sub(rf"\g<1>{key}-", body)
    head = (
        f'<svg class="{width.name}" viewBox="{opening[1]}" role="img" '
        f'aria-labelledby="{key}-title {key}-words" style="max-width: {width.pixels * 1.15:.0f}px">'
        f'<title id="{key}-title">{escape(title)}</title><desc id="{key}-words">{escape(alt)}</desc>'
    )
    return head + re.sub(r">\s+<", "><", body).strip()
