"""A click group whose commands are imported when they run, not when they are listed."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

import click
from click.shell_completion import CompletionItem

from petl_vit.errors import CorollaError

_PACKAGES = frozenset(
    {"html_pages", "image_files", "petl_vit", "model_store", "training", "serving", "protos", "corolla"}
)
_RUNNING = "corolla.running"
"""Where a context's `meta` holds the command that its arguments led to."""


@dataclass(frozen=True, kw_only=True)
class Lazy:
    """A command that is imported when it runs.

    Attributes:
        target: "module:attribute" of the click command.
        line: The first sentence of its help.
        extra: The extra of the package that brings what it imports.
        section: The heading that lists it in the group's help.
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


class CommandGroup(click.Group):
    """A group of commands: those of a lazy table, eager ones, and those that other packages add.

    Args:
        lazy: The table, in the order of the help.
        plugins: Entry-point group of commands that other packages add.
    """

    def __init__(
        self,
        *args: Any,
        lazy: Mapping[str, Lazy] = MappingProxyType({}),
        plugins: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.lazy, self._plugins = lazy, plugins

    def list_commands(self, ctx: click.Context) -> list[str]:
        known = [*self.lazy, *super().list_commands(ctx)]
        return [*known, *sorted(self._added().keys() - set(known))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            command = self._load(ctx, cmd_name)
        except ModuleNotFoundError as error:
            raise self._missing(cmd_name, error) from error
        assert command is None or isinstance(command, click.Command), f"{cmd_name} is not a click command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            known = self.list_commands(ctx)
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=known, ctx=ctx) from None
        ctx.meta[_RUNNING] = command
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise self._missing(ctx.invoked_subcommand or "corolla", error) from error

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Possible next words, without an import: torch would make the shell wait."""
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        items = [CompletionItem(name, help=self.line_of(name)) for name in names]
        return items + super(click.Group, self).shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            sections.setdefault(self.section_of(name), []).append((name, self.line_of(name)))
        for section, lines in sections.items():
            with formatter.section(section):
                formatter.write_dl(lines)

    def section_of(self, name: str) -> str:
        """The heading that lists a command in the help."""
        if name in self.lazy:
            return self.lazy[name].section
        return "Commands" if name in self.commands else "Added by other packages"

    def line_of(self, name: str) -> str:
        """What the help says of a command, without importing it."""
        if name in self.lazy:
            return self.lazy[name].line
        return self.commands[name].get_short_help_str(limit=90) if name in self.commands else ""

    def _load(self, ctx: click.Context, name: str) -> Any:
        if name in self.lazy:
            module, _, attribute = self.lazy[name].target.partition(":")
            return getattr(import_module(module), attribute)
        if name in self.commands:
            return super().get_command(ctx, name)
        added = self._added()
        return added[name].load() if name in added else None

    def _added(self) -> dict[str, EntryPoint]:
        """The commands of other packages, by name."""
        return {} if self._plugins is None else {p.name: p for p in entry_points(group=self._plugins)}

    def _missing(self, command: str, error: ModuleNotFoundError) -> Exception:
        """A missing library is for the user to install; a missing part of corolla is a fault of corolla."""
        module = (error.name or str(error)).partition(".")[0]
        if module in _PACKAGES or command not in self.lazy:
            return error
        return MissingExtra(command, module, self.lazy[command].extra)


def running_command(context: click.Context) -> click.Command:
    """The command that the arguments of a context led to, as far as they could be followed."""
    command = context.meta.get(_RUNNING, context.command)
    assert isinstance(command, click.Command)
    return command
