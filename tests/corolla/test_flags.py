"""Flags that are generated from pydantic fields, and flags that commands share."""

from pathlib import Path
from typing import Any, Literal

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel, Field

from corolla import flags
from corolla.command import corolla
from corolla.flags import Connection, option_of
from petl_vit.errors import InvalidInput
from serving.settings import Settings


class Fields(BaseModel):
    images: int = Field(default=3, ge=1, lt=9, description="images of one request")
    rate_s: float = Field(gt=0, le=1, description="gRPC seconds")
    kind: Literal["a", "b"] = Field(default="a", description="what computes")
    open: bool = Field(default=False, description="listen to all")
    threads: int | None = Field(default=None, ge=1, description="CPU threads")
    place: str = Field(default="", description="where it is")


def option(name: str, **changes: Any) -> click.Option:
    @option_of(name, Fields.model_fields[name], **changes)
    def command() -> None: ...

    (made,) = command.__click_params__
    assert isinstance(made, click.Option)
    return made


def shown(name: str, **changes: Any) -> str:
    record = option(name, **changes).get_help_record(click.Context(click.Command("c")))
    assert record is not None
    return "  ".join(record)


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("images", {}, "--images INTEGER RANGE  Images of one request.  [default: 3; 1<=x<9]"),
        ("rate_s", {}, "--rate-s FLOAT RANGE  gRPC seconds.  [0<x<=1]"),
        ("rate_s", {"flag": "--r", "default": 0.5}, "--r FLOAT RANGE  gRPC seconds.  [default: 0.5; 0<x<=1]"),
        ("kind", {}, "--kind [a|b]  What computes.  [default: a]"),
        ("open", {}, "--open / --no-open  Listen to all.  [default: no-open]"),
        ("threads", {}, "--threads INTEGER RANGE  CPU threads.  [x>=1]"),
        ("place", {}, "--place TEXT  Where it is."),
    ],
)
def test_a_flag_has_its_fields_type_limits_default_and_description(
    name: str, changes: dict[str, Any], text: str
) -> None:
    assert shown(name, **changes) == text


def test_a_value_beyond_a_fields_limits_is_refused_by_its_flag() -> None:
    command = click.Command("c", params=[option("images")])
    result = CliRunner().invoke(command, ["--images", "9"])

    assert result.exit_code == 2
    assert "Invalid value for '--images': 9 is not in the range 1<=x<9" in result.output


def test_only_what_is_typed_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "here")
    command = click.Command("c", params=[option("images"), option("kind"), click.Option(["--place"])])
    command.params[2].envvar = "PLACE"

    with command.make_context("c", ["--kind", "a"]) as context:
        assert flags.given(context) == {"kind": "a"}


def connected(*words: str, default: str | None = None) -> Connection | None:
    @click.command()
    @flags.server("A server.", default=default)
    def command(connection: Connection | None) -> None:
        connections.append(connection)

    connections: list[Connection | None] = []
    result = CliRunner().invoke(command, words, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return connections[0]


def test_a_connection_is_what_its_flags_say() -> None:
    assert connected() is None
    by_default = Connection(
        address="here:1", ca=None, certificate=None, key=None, server_name=None, timeout_s=30.0
    )
    assert connected(default="here:1") == by_default
    assert connected(
        "--server", "there:2", "--tls-ca", "ca.pem", "--tls-server-name", "name", "--timeout", "2"
    ) == Connection(
        address="there:2", ca=Path("ca.pem"), certificate=None, key=None, server_name="name", timeout_s=2.0
    )


def test_flags_of_a_server_are_refused_without_one() -> None:
    with pytest.raises(InvalidInput, match="add --server") as caught:
        connected("--timeout", "3")
    assert caught.value.field == "timeout"


# They print again and again, and one of them needs no store: their flags say so.
CONTINUOUS = ("monitor", "watch")
SHARED = ("--store", "--json", "--extrapolate", "--overwrite", "--server", "--tls-ca", "--timeout")


@pytest.mark.parametrize("flag", SHARED)
def test_a_shared_flag_says_the_same_wherever_it_is(flag: str) -> None:
    texts = {
        (option.help, str(option.type), option.envvar)
        for command in _commands(corolla)
        if command.name not in CONTINUOUS
        for option in command.params
        if isinstance(option, click.Option) and flag in option.opts
    }

    if flag == "--server":  # acting through a server, or always talking to one
        assert len(texts) == 2
    else:
        assert len(texts) == 1


def test_what_runs_the_backbone_takes_a_servers_choices() -> None:
    fields = Settings.model_fields
    for shared, name in ((flags.device, "device"), (flags.precision(), "precision")):

        @shared
        @option_of(name, fields[name], flag="--of-the-server")
        def command() -> None: ...

        of_server, of_all = command.__click_params__
        assert (of_all.help, of_all.default) == (of_server.help, of_server.default)
        assert list(of_all.type.choices) == list(of_server.type.choices)


def _commands(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return [command]
    context = click.Context(command)
    below = (command.get_command(context, name) for name in command.list_commands(context))
    return [leaf for one in below if one is not None for leaf in _commands(one)]
