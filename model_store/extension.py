"""A command group that other modules extend: entry points lead to commands, imported when they are used.

So the store's `adapters` group has commands of the training package without importing it.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

import click

from petl_vit.errors import CorollaError


class Extended(click.Group):
    """A group with the commands of the entry points `corolla.<its name>` beside its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *(point.name for point in self._points())})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for point in self._points(cmd_name):
            return _load(point)
        return super().get_command(ctx, cmd_name)

    def _points(self, name: str | None = None) -> list[EntryPoint]:
        found = entry_points(group=f"corolla.{self.name}")
        return [point for point in found if name is None or point.name == name]


def _load(point: EntryPoint) -> click.Command:
    """The command, or where its libraries are missing one that says so when it is used."""
    try:
        command = point.load()
    except ModuleNotFoundError as error:
        return _absent(point.name, (error.name or str(error)).partition(".")[0])
    assert isinstance(command, click.Command), f"{point.value} is not a click command"
    return command


def _absent(name: str, module: str) -> click.Command:
    def refuse() -> NoReturn:
        raise CorollaError(
            f"needs {module}, which is not installed",
            field=name,
            remedy="run pip install 'corolla[train]'",
        )

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=refuse, help=f"Needs {module}.", context_settings=settings)
