"""What `corolla serve` sets for its process, and that nothing else does."""

import asyncio
from collections.abc import Coroutine

import pytest
from click.testing import CliRunner

from corolla.commands.serve import serve
from serving import process
from serving.server import Server
from tests.serving.world import World


def test_what_the_user_has_set_stays() -> None:
    environ = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "1000", "MALLOC_ARENA_MAX": "4"}
    options: list[int] = []

    process.bound_memory(environ, lambda option, size: options.append(option))

    assert environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "1000"
    assert environ["LRU_CACHE_CAPACITY"] == "32"
    assert options == [-3, -1]


def test_the_command_bounds_its_memory_and_a_program_that_runs_a_server_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded: list[bool] = []
    monkeypatch.setattr(process, "bound_memory", lambda environ: bounded.append(True))

    def run(serving: Coroutine[object, object, None]) -> None:
        assert bounded, "torch may be at work before memory is bounded"
        serving.close()

    monkeypatch.setattr(asyncio, "run", run)

    Server(world.settings(precision="fp32")).service.close()
    assert not bounded
    assert CliRunner().invoke(serve, ["--store", "memory"]).exit_code == 0
    assert bounded == [True]


def test_resident_memory_is_told_where_the_system_tells_it() -> None:
    found = process.resident_bytes()

    assert found is None or found > 2**20
