"""What the pages tell people to type exists: commands, flags, and the files they link to."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import click
import pytest

from corolla.command import corolla

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def commands(pages: Iterable[Path] = PAGES) -> list[str]:
    """Every `corolla ...` line of a console block, continued lines joined."""
    found = []
    for page in pages:
        for block in re.findall(r"```(?:console|sh|bash)\n(.*?)```", page.read_text(), re.DOTALL):
            text = block.replace("\\\n", " ")
            found += re.findall(r"^\$ (corolla .*?)(?: &)?$", text, re.MULTILINE)
    return sorted(set(found))


def parse(command: click.Command, arguments: list[str], name: str) -> None:
    """Parses a command line down to the last subcommand without running it."""
    with command.make_context(name, arguments) as context:
        if isinstance(command, click.Group):
            rest = [*context._protected_args, *context.args]
            subname, subcommand, left = command.resolve_command(context, rest)
            assert subcommand is not None
            assert subname is not None
            parse(subcommand, left, subname)


@pytest.mark.parametrize("line", commands())
def test_a_command_that_a_page_shows_can_be_typed(line: str) -> None:
    arguments = shlex.split(line, comments=True)[1:]
    if arguments[-1] in ("--help", "--version"):
        with pytest.raises(click.exceptions.Exit):
            parse(corolla, arguments, "corolla")
    else:
        parse(corolla, arguments, "corolla")


def test_the_readme_shows_commands() -> None:
    shown = {line.split()[1] for line in commands([ROOT / "README.md"])}
    assert shown >= {"train", "serve", "classify"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
