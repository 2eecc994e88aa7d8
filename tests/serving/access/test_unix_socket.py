"""A Unix socket instead of a port."""

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from corolla.commands.classify import classify
from petl_vit.errors import InvalidInput
from serving.access import exposure
from serving.client.admin import AdminClient
from serving.client.asynchronous import AsyncClient
from serving.client.blocking import Client
from serving.client.health import main as health
from serving.settings import Settings
from tests.serving.access.listening import Listening
from tests.serving.access.test_exposure import said
from tests.serving.world import WAIT_S, Running, World, encoded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "corolla.sock"


def abandoned(path: Path) -> None:
    """The file of a server that was killed."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))


async def test_all_clients_and_commands_reach_a_server_on_a_socket(
    world: World, path: Path, tmp_path: Path
) -> None:
    abandoned(path)
    image = tmp_path / "a.png"
    image.write_bytes(encoded(0))
    with Running(world.settings(host=f"unix:{path}")) as running:
        assert running.address == f"unix:{path}"
        with running.client() as client:
            assert client.classify([encoded(0)], route="lora", task="shapes").route == "lora:2"
            assert AdminClient(client).list_routes().routes, "this machine may administer"
        async with AsyncClient(f"unix://{path}", timeout_s=WAIT_S) as client:
            assert await client.serving()
        assert said(classify, running, str(image), "--route", "lora", "--task", "shapes").exception is None
        assert health([f"unix:{path}"]) == 0
        assert running.server.metrics_port
    assert not await asyncio.to_thread(path.exists)


@pytest.mark.parametrize("mode", ["600", "0660"])
def test_who_may_connect_is_the_files_mode(path: Path, mode: str) -> None:
    before = os.umask(0)
    os.umask(before)
    with Listening(host=f"unix:{path}", socket_mode=mode) as server:
        assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
        with Client(server.address, timeout_s=WAIT_S) as client:
            assert client.serving()
    assert os.umask(before) == before


def test_a_server_is_not_driven_out_of_its_socket(path: Path) -> None:
    with Listening(host=f"unix:{path}") as server:
        with pytest.raises(InvalidInput, match=r"a server listens on .* already") as caught:
            exposure.check(Settings(host=f"unix:{path}", metrics_port=0))
        assert caught.value.field == "host"
        with Client(server.address, timeout_s=WAIT_S) as client:
            assert client.serving()


def test_a_file_that_is_not_a_socket_stays(path: Path) -> None:
    path.write_text("mine")

    with pytest.raises(InvalidInput, match="is not a socket; choose another path"):
        exposure.check(Settings(host=f"unix:{path}", metrics_port=0))
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("host", "problem"),
    [("unix:/no/such/folder/x.sock", "is not a folder"), ("unix:", "no path"), ("unix:" + 120 * "x", "107")],
)
def test_a_path_that_cannot_work_is_named(host: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        exposure.check(Settings(host=host, metrics_port=0))
    assert caught.value.field == "host"
