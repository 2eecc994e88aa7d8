"""Tables for people and for a page, which has them between two marks and is never edited there by hand.

<!-- measured: NAME --> ... <!-- end of NAME -->
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table.

    Attributes:
        note: What is to be known of its numbers; below it in a page.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""

    def table(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, caption=self.note or None)
        for place, column in enumerate(self.columns):
            table.add_column(column, justify="left" if place == 0 else "right")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page."""
        lines = [
            f"**{self.title}**",
            "",
            _line(self.columns),
            _line(["---", *["---:"] * (len(self.columns) - 1)]),
        ]
        lines += [_line(row) for row in self.rows]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines)


def write(page: Path, name: str, text: str) -> None:
    """Replaces what a page has between the marks of a name, or adds it with them at the end."""
    start, end = f"<!-- measured: {name} -->", f"<!-- end of {name} -->"
    before = page.read_text(encoding="utf-8") if page.exists() else ""
    block = f"{start}\n{text}\n{end}"
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(end)}", re.DOTALL)
    found = pattern.sub(lambda _: block, before) if pattern.search(before) else f"{before}\n{block}\n"
    page.write_text(found, encoding="utf-8")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
