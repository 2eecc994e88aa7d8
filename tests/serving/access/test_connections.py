"""How long connections live: keepalive pings, and their age."""

import threading
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.access.connections import options
from serving.client.blocking import Client
from serving.settings import Settings
from tests.serving.access.listening import SERVING, Listening
from tests.serving.world import WAIT_S, until

PINGS = [
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 1000 * int(WAIT_S)),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
AT_ALL_TIMES = [*PINGS, ("grpc.keepalive_permit_without_calls", 1)]


class Stream:
    """A call that stays open and says nothing, as a stream whose camera sees nothing."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.error: grpc.RpcError | None = None
        self._call: Any = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(self._call).status == SERVING
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for _ in self._call:
                pass
        except grpc.RpcError as error:
            self.error = error

    def end(self) -> None:
        self._call.cancel()
        self._thread.join(WAIT_S)


def test_pings_of_ten_seconds_and_of_one_are_taken_with_and_without_calls() -> None:
    chosen = dict(options(Settings()))

    assert chosen["grpc.http2.min_ping_interval_without_data_ms"] == 500
    assert chosen["grpc.keepalive_permit_without_calls"] == 1


def test_a_quiet_stream_outlives_pings_that_would_end_it_with_grpcs_own_bound() -> None:
    with (
        Listening(options=[("grpc.so_reuseport", 0)]) as strict,
        Listening() as ours,
        grpc.insecure_channel(strict.address, PINGS) as theirs,
        grpc.insecure_channel(ours.address, PINGS) as channel,
    ):
        lives, dies = Stream(channel), Stream(theirs)
        until(lambda: dies.error is not None)
        assert dies.error is not None
        assert "Too many pings" in str(dies.error.details())
        assert lives.error is None
        lives.end()
        dies.end()


def test_further_calls_of_one_connection_wait_in_its_client_and_those_of_others_do_not() -> None:
    most = dict(options(Settings()))["grpc.max_concurrent_streams"]
    ask = health_pb2.HealthCheckRequest()
    with (
        Listening() as server,
        grpc.insecure_channel(server.address) as full,
        grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as other,
    ):
        stub = health_pb2_grpc.HealthStub(full)
        watches: list[Any] = [stub.Watch(ask) for _ in range(most)]
        assert all(next(watch).status == SERVING for watch in watches)
        waiting = stub.Check.future(ask, timeout=WAIT_S)
        assert health_pb2_grpc.HealthStub(other).Check(ask, timeout=WAIT_S).status == SERVING
        assert not waiting.done()
        watches.pop().cancel()
        assert waiting.result().status == SERVING
        for watch in watches:
            watch.cancel()


def changes(channel: grpc.Channel) -> list[grpc.ChannelConnectivity]:
    """The states of a channel, as they come."""
    seen: list[grpc.ChannelConnectivity] = []
    channel.subscribe(seen.append)
    return seen


def ask(channel: grpc.Channel) -> Any:
    request = health_pb2.HealthCheckRequest()
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=WAIT_S).status


def test_a_channel_without_calls_may_ping_too() -> None:
    kept_short = [("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 10)]
    with (
        Listening(options=kept_short) as strict,
        Listening() as ours,
        grpc.insecure_channel(strict.address, AT_ALL_TIMES) as theirs,
        grpc.insecure_channel(ours.address, AT_ALL_TIMES) as channel,
    ):
        seen, refused = changes(channel), changes(theirs)
        assert ask(channel) == ask(theirs) == SERVING
        until(lambda: grpc.ChannelConnectivity.READY in seen)
        until(lambda: refused[-1] is grpc.ChannelConnectivity.IDLE and len(refused) > 1)
        assert seen[-1] is grpc.ChannelConnectivity.READY
        assert ask(channel) == SERVING


def test_a_connection_of_some_age_is_made_anew_and_no_call_fails() -> None:
    idle = grpc.ChannelConnectivity.IDLE
    with (
        Listening(max_connection_age_s=0.1, max_connection_age_grace_s=WAIT_S) as server,
        Client(server.address, timeout_s=WAIT_S) as client,
    ):
        seen = changes(client.channel)
        until(lambda: ask(client.channel) == SERVING and seen.count(idle) >= 4)


def test_a_stream_may_go_on_for_the_grace_and_then_ends() -> None:
    with (
        Listening(max_connection_age_s=0.1, max_connection_age_grace_s=0.1) as server,
        Client(server.address) as client,
    ):
        stream = Stream(client.channel)
        until(lambda: stream.error is not None)
        assert stream.error is not None
        assert stream.error.code() is grpc.StatusCode.UNAVAILABLE
        assert ask(client.channel) == SERVING
        stream.end()


@pytest.mark.parametrize("name", ["keepalive_s", "keepalive_timeout_s", "max_connection_age_s"])
def test_times_are_told_to_grpc_in_milliseconds(name: str) -> None:
    chosen = dict(options(Settings(**{name: 1.5})))

    assert chosen[
        f"grpc.{name.removesuffix('_s')}" + ("_ms" if "time" in name or "age" in name else "_time_ms")
    ]


def test_connections_have_no_age_unless_one_is_set() -> None:
    assert not [name for name, _ in options(Settings()) if "age_ms" in name]
