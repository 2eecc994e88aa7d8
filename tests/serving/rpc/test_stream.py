"""Streams without gRPC: what is under way, and in which order it is answered."""

import asyncio
import weakref

import pytest

from serving.rpc.stream import answer_all


class Peer:
    """Requests 0, 1, ... and what was written."""

    def __init__(self, count: int) -> None:
        self.taken, self.under_way, self.most, self.written = 0, 0, 0, list[int]()
        self._count = count

    async def read(self) -> int | None:
        if self.taken == self._count:
            return None
        self.taken += 1
        return self.taken - 1

    async def answer(self, request: int) -> int:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return request

    async def write(self, answer: int) -> None:
        self.written.append(answer)


@pytest.mark.parametrize("most", [1, 3, 100])
async def test_as_many_are_under_way_as_may_be(most: int) -> None:
    peer = Peer(20)
    await answer_all(peer.read, peer.answer, peer.write, most=most)
    assert sorted(peer.written) == list(range(20))
    assert peer.most <= most


async def test_nothing_is_read_while_the_peer_does_not_take_its_answers() -> None:
    peer, taken = Peer(100), asyncio.Event()

    async def write(answer: int) -> None:
        await taken.wait()
        peer.written.append(answer)

    streaming = asyncio.create_task(answer_all(peer.read, peer.answer, write, most=5))
    for _ in range(50):
        await asyncio.sleep(0)
    assert peer.taken == 5
    taken.set()
    await streaming
    assert len(peer.written) == 100


async def test_what_reading_raises_comes_after_the_answers() -> None:
    peer = Peer(3)

    async def read() -> int:
        request = await peer.read()
        if request is None:
            raise ValueError("garbage")
        return request

    with pytest.raises(ValueError, match="garbage"):
        await answer_all(read, peer.answer, peer.write, most=9)
    assert sorted(peer.written) == [0, 1, 2]


async def test_a_failing_write_ends_what_is_under_way() -> None:
    peer, cancelled = Peer(3), list[int]()

    async def answer(request: int) -> int:
        if request == 0:
            return 0
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(request)
            raise
        return request

    async def write(answer: int) -> None:
        raise OSError("the peer is gone")

    with pytest.raises(OSError, match="the peer is gone"):
        await answer_all(peer.read, answer, write, most=9)
    assert sorted(cancelled) == [1, 2]


class Request:
    """A request that can be looked at after nobody has it any more."""

    def __init__(self, number: int) -> None:
        self.number = number


async def test_answers_wait_for_those_before_them_and_keep_no_request() -> None:
    peer, gates = Peer(3), [asyncio.Event() for _ in range(3)]
    requests: list[weakref.ref[Request]] = []

    async def read() -> Request | None:
        number = await peer.read()
        if number is None:
            return None
        request = Request(number)
        requests.append(weakref.ref(request))
        return request

    async def answer(request: Request) -> int:
        await gates[request.number].wait()
        return request.number

    streaming = asyncio.create_task(answer_all(read, answer, peer.write, most=9, ordered=True))
    for number in (2, 1):
        gates[number].set()
        for _ in range(9):
            await asyncio.sleep(0)
    assert peer.written == []
    assert [request() is None for request in requests] == [False, True, True]
    gates[0].set()
    await streaming
    assert peer.written == [0, 1, 2]
