"""The folders of the project as rows of docs/structure.md: each folder's docstring and its files."""

import ast
from collections.abc import Iterator
from pathlib import Path

FLOORS = (
    "corolla",
    "deploy",
    "serving",
    "training",
    "model_store",
    "petl_vit",
    "html_pages",
    "image_files",
    "protos",
    "benchmarks",
    "examples",
)
"""The top folders, from the top down."""
BEGIN, END = "<!-- folders: made by `make docs` -->", "<!-- end of folders -->"


def with_rows(page: str, root: Path) -> str:
    """The page with its table of folders as the folders say it now.

    Raises:
        ValueError: The page has no place for the table.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/structure.md needs the lines {BEGIN} and {END}")
    lines = ["| folder | what it is | files |", "|---|---|---|", *_rows(root)]
    return "\n".join([head + BEGIN, "", *lines, "", END + tail])


def _rows(root: Path) -> Iterator[str]:
    for floor in FLOORS:
        for folder in sorted({path.parent for path in (root / floor).rglob("*.py")}):
            modules = sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
            if "_pb2" in "".join(modules):
                continue
            files = " ".join(f"`{name}`" for name in modules if not name.startswith("__"))
            yield f"| `{folder.relative_to(root)}/` | {_sentence(folder)} | {files} |"


def _sentence(folder: Path) -> str:
    """What a folder says of itself: the first paragraph of its `__init__.py`."""
    face = folder / "__init__.py"
    text = ast.get_docstring(ast.parse(face.read_text())) if face.exists() else None
    assert text, f"{folder} needs an __init__.py with a sentence that says what it is"
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
