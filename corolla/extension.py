"""A command group that other modules extend: entry points lead to commands, imported when they are used.

So the store's `adapters` group has commands of the training package without importing it.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import click

from petl_vit.errors import CorollaError

_EXTRAS = {"training": "train", "serving": "client"}
"""What brings the libraries of a package's commands."""


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


def extension(group: str, name: str) -> Any:
    """What an entry point of another package leads to.

    Raises:
        CorollaError: Its libraries are not installed.
    """
    (point,) = entry_points(group=group, name=name)
    try:
        return point.load()
    except ModuleNotFoundError as error:
        raise _missing(f"--{name}", point, error) from error


def _load(point: EntryPoint) -> click.Command:
    """The command, or where its libraries are missing one that says so when it is used."""
    try:
        command = point.load()
    except ModuleNotFoundError as error:
        return _absent(point.name, _missing(point.name, point, error))
    assert isinstance(command, click.Command), f"{point.value} is not a click command"
    return command


def _absent(name: str, error: CorollaError) -> click.Command:
    def refuse() -> NoReturn:
        raise error

    settings = {"ignore_unknown_options": True, "allow_extra_args": True}
    return click.Command(name, callback=refuse, help=f"Not here: {error.problem}.", context_settings=settings)


def _missing(what: str, point: EntryPoint, error: ModuleNotFoundError) -> CorollaError:
    module = (error.name or str(error)).partition(".")[0]
    extra = _EXTRAS.get(point.module.partition(".")[0], "serve")
    return CorollaError(
        f"needs {module}, which is not installed",
        field=what,
        remedy=f"run pip install 'corolla[{extra}]'",
    )
