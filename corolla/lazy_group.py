"""A click group whose commands are imported when they run, not when they are listed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import click
from click.shell_completion import CompletionItem

from petl_vit.errors import CorollaError

PACKAGES = frozenset({"petl_vit", "model_store", "training", "serving", "protos", "corolla"})


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One command in the help.

    Attributes:
        target: "module:attribute" of the click command.
        line: What the help says of it.
        extra: The extra that brings what it imports.
        section: Heading of the help that it stands under.
    """

    target: str
    line: str
    extra: str
    section: str = "Commands"


class MissingExtra(CorollaError):
    """A command whose libraries are not installed."""

    def __init__(self, command: str, module: str, extra: str) -> None:
        super().__init__(
            f"needs {module}, which is not installed",
            field=command,
            remedy=f"run pip install 'corolla[{extra}]'",
        )


class LazyGroup(click.Group):
    """A group over a table of commands.

    Args:
        commands: The table, in the order of the help.
        plugins: Entry-point group of commands that other packages add.
    """

    def __init__(
        self, *args: Any, table: Mapping[str, Listed], plugins: str | None = None, **settings: Any
    ) -> None:
        super().__init__(*args, **settings)
        self._table, self._plugins = table, plugins

    def list_commands(self, ctx: click.Context) -> list[str]:
        added = () if self._plugins is None else (point.name for point in entry_points(group=self._plugins))
        own = sorted({*super().list_commands(ctx), *self._table}) if self.commands else list(self._table)
        return [*own, *sorted(set(added) - set(own))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        listed = self._table.get(cmd_name)
        own = super().get_command(ctx, cmd_name)
        try:
            command = own or (self._added(cmd_name) if listed is None else _imported(listed.target))
        except ModuleNotFoundError as error:
            raise self._missing(cmd_name, error) from error
        assert command is None or isinstance(command, click.Command), f"{cmd_name} is not a click command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            known = self.list_commands(ctx)
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=known, ctx=ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise self._missing(ctx.invoked_subcommand or "corolla", error) from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What could come next, from the table alone: importing torch would keep the shell waiting."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=self._line(name)) for name in names]
        return items + super(click.Group, self).shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            listed = self._table.get(name)
            own = listed is not None or name in self.commands
            section = (listed.section if listed else "Commands") if own else "Added by other packages"
            rows.setdefault(section, []).append((name, self._line(name)))
        for section, lines in rows.items():
            with formatter.section(section):
                formatter.write_dl(lines)

    def _line(self, name: str) -> str:
        if name in self.commands:
            return self.commands[name].get_short_help_str(limit=90)
        return self._table[name].line if name in self._table else ""

    def _added(self, name: str) -> Any:
        found: Iterator[Any] = iter(entry_points(group=self._plugins, name=name) if self._plugins else ())
        point = next(found, None)
        return None if point is None else point.load()

    def _missing(self, command: str, error: ModuleNotFoundError) -> Exception:
        """A missing library is the user's to install; a missing part of corolla is our own fault."""
        module = (error.name or str(error)).partition(".")[0]
        listed = self._table.get(command)
        if module in PACKAGES:
            return error
        return MissingExtra(command, module, listed.extra if listed else command)


def _imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
