"""Groups whose commands are imported when they run."""

import importlib
import tomllib
from contextlib import suppress
from pathlib import Path

import click
import pytest

from corolla import command
from corolla.commands.adapters import COMMANDS
from corolla.group import CommandGroup, Lazy, running_command

ROOT = Path(command.__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
LAZY = {**{f"adapters {name}": lazy for name, lazy in COMMANDS.items()}, **command.COMMANDS}


@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_commands_line_is_the_first_sentence_of_its_help(name: str) -> None:
    module, _, attribute = LAZY[name].target.partition(":")
    target = getattr(importlib.import_module(module), attribute)

    assert LAZY[name].line == target.get_short_help_str(limit=200)
    assert target.name == name.split()[-1]
    assert LAZY[name].extra in EXTRAS


def test_a_group_lists_lazy_commands_in_their_order_before_its_own() -> None:
    group = CommandGroup("g", lazy={"b": _lazy("b"), "a": _lazy("a")}, commands=[click.Command("z")])

    assert group.list_commands(click.Context(group)) == ["b", "a", "z"]


def test_the_running_command_is_known_as_far_as_it_could_be_followed() -> None:
    leaf = click.Command("leaf", callback=lambda: None)
    inner = CommandGroup("inner", commands=[leaf])
    outer = CommandGroup("outer", commands=[inner])

    for words, expected in ((["inner", "leaf"], leaf), (["inner", "laef"], inner)):
        with outer.make_context("outer", words) as context:
            with suppress(click.exceptions.NoSuchCommand):
                outer.invoke(context)
            assert running_command(context) is expected


def _lazy(name: str) -> Lazy:
    return Lazy(target=f"nowhere:{name}", line="", extra="serve")
