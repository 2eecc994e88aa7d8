"""What `corolla serve` sets for its process, and that nothing else does."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Coroutine

import pytest
from click.testing import CliRunner

from corolla.commands.serve import serve
from serving import process
from serving.server import Server
from tests.serving.world import WAIT_S, World


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
    words = ["--store", "memory", "--port", "0", "--metrics-port", "0"]
    assert CliRunner().invoke(serve, words).exit_code == 0
    assert bounded == [True]


def test_the_command_says_which_variables_of_kubernetes_it_ignores(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asyncio, "run", lambda serving: serving.close())
    monkeypatch.setattr(process, "bound_memory", lambda environ: None)
    monkeypatch.setenv("COROLLA_PORT", "tcp://10.43.1.39:50051")
    caplog.set_level(logging.INFO)

    assert (
        CliRunner().invoke(serve, ["--store", "memory", "--port", "0", "--metrics-port", "0"]).exit_code == 0
    )
    assert "ignored, as Kubernetes sets them for a Service (enableServiceLinks): COROLLA_PORT" in caplog.text


async def test_a_server_under_nohup_does_not_hear_its_terminal_close(world: World) -> None:
    server = Server(world.settings())
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with server.stopped_by_signals():
            ignored = signal.getsignal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    with server.stopped_by_signals():
        heard = signal.getsignal(signal.SIGHUP)
    server.service.close()

    assert ignored is signal.SIG_IGN
    assert callable(heard)
    assert signal.getsignal(signal.SIGHUP) is before


async def test_a_signal_is_heard_while_more_waits_for_the_loop_than_its_pipe_holds(world: World) -> None:
    server = Server(world.settings())
    loop, began = asyncio.get_running_loop(), list[bool]()
    with server.stopped_by_signals(lambda: began.append(True)):
        for _ in range(5000):
            loop.call_soon_threadsafe(lambda: None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert began == [True]  # also where the loop never goes on
        async with asyncio.timeout(WAIT_S):
            await server.run()


def test_a_process_that_hangs_at_its_end_is_ended_and_says_where() -> None:
    program = (
        "import threading; from serving import process\n"
        "def hangs(): threading.Event().wait()\n"
        "process.exit_within(0.1); hangs()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert ended.returncode == 1
    assert "in hangs" in ended.stderr


def test_resident_memory_is_told_where_the_system_tells_it() -> None:
    found = process.resident_bytes()

    assert found is None or found > 2**20


def test_memory_that_is_freed_between_blocks_in_use_counts_as_free() -> None:
    program = """
import ctypes
from serving import process

libc = ctypes.CDLL("libc.so.6")
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.mallopt(-3, 32 << 20)  # one heap
libc.mallopt(-8, 1)
blocks = [libc.malloc(1 << 20) for _ in range(64)]
held = process.heap_bytes()
for block in blocks[::2]:
    libc.free(block)
freed = process.heap_bytes()
assert held and freed
assert held[0] - freed[0] >= 31 << 20, (held, freed)
assert freed[1] - held[1] >= 31 << 20, (held, freed)
"""
    if process.heap_bytes() is None:
        pytest.skip("this C library does not say what it holds (glibc 2.33 does)")
    subprocess.run([sys.executable, "-c", program], check=True)
