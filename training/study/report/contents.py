"""What the page is made of: sections of words, figures, tables and thumbnails.

How they look is the template's.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Value = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Data:
    """The numbers behind a figure or a table, for those who want to draw it again.

    Attributes:
        name: File name without its ending, unique on the page.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def csv(self) -> str:
        """As CSV, RFC 4180; a missing value is an empty field."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing with its caption.

    Attributes:
        title: What it shows.
        caption: How it is read.
        wide, narrow: SVG elements.
    """

    title: str
    caption: str
    wide: str
    narrow: str
    data: Data
    kind: Literal["figure"] = "figure"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What is read.
        sort: What it is sorted by; None is the text.
        shade: 0 to 1, how strongly it is coloured; None is not.
        number: Whether it is aligned as a number.
        strong: Whether it stands out.
    """

    text: str
    sort: float | None = None
    shade: float | None = None
    number: bool = False
    strong: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under column heads; the first cell of a row is its head."""

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    data: Data | None = None
    sortable: bool = False
    heat: bool = False
    kind: Literal["table"] = "table"


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image and what was said of it.

    Attributes:
        source: Its pixels as a data URI.
        alt: What there is to know without seeing it.
        votes: Classes, how many models said each, and which; most votes first.
    """

    source: str
    width: int
    height: int
    alt: str
    truth: str
    domain: str
    entropy: float
    votes: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Thumbnails."""

    title: str
    caption: str
    images: tuple[Thumbnail, ...]
    data: Data
    kind: Literal["gallery"] = "gallery"


Block = Figure | Table | Gallery


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page under its own heading.

    Attributes:
        key: Unique on the page; links lead to it.
        words: Paragraphs before the blocks.
        absent: Why there is nothing to show; empty where there is.
    """

    key: str
    heading: str
    words: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    absent: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One answer of the summary.

    Attributes:
        question: Its heading.
        answer: One or two sentences.
        evidence: Sentences with intervals and tests.
        commands: What to type next.
    """

    question: str
    answer: str
    evidence: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The whole page.

    Attributes:
        facts: Name and value of what was measured, on what.
    """

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]
    notes: tuple[str, ...] = field(default=())

    def data(self) -> list[Data]:
        """The numbers of every figure and table that has some, in the order of the page."""
        blocks = [block for section in self.sections for block in section.blocks]
        return [block.data for block in blocks if block.data is not None]


def text_cells(values: Sequence[str]) -> tuple[Cell, ...]:
    """Cells of words."""
    return tuple(Cell(text=value) for value in values)
