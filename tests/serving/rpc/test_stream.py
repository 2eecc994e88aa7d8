"""Streams without gRPC: what is under way, and in which order it is answered."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from serving.rpc.stream import answer_all, in_order


class Peer:
    """Requests 0, 1, ... and what was written."""

    def __init__(self, count: int) -> None:
        self.read, self.under_way, self.most, self.written = 0, 0, 0, list[int]()
        self._count = count

    async def requests(self) -> AsyncIterator[int]:
        while self.read < self._count:
            self.read += 1
            yield self.read - 1

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
    await answer_all(peer.requests(), peer.answer, peer.write, most=most)
    assert sorted(peer.written) == list(range(20))
    assert peer.most <= most


async def test_nothing_is_read_while_the_peer_does_not_take_its_answers() -> None:
    peer, taken = Peer(100), asyncio.Event()

    async def write(answer: int) -> None:
        await taken.wait()
        peer.written.append(answer)

    streaming = asyncio.create_task(answer_all(peer.requests(), peer.answer, write, most=5))
    for _ in range(50):
        await asyncio.sleep(0)
    assert peer.read == 5
    taken.set()
    await streaming
    assert len(peer.written) == 100


async def test_what_reading_raises_comes_after_the_answers() -> None:
    peer = Peer(3)

    async def requests() -> AsyncIterator[int]:
        async for request in peer.requests():
            yield request
        raise ValueError("garbage")

    with pytest.raises(ValueError, match="garbage"):
        await answer_all(requests(), peer.answer, peer.write, most=9)
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
        await answer_all(peer.requests(), answer, write, most=9)
    assert sorted(cancelled) == [1, 2]


async def test_answers_wait_for_those_before_them() -> None:
    finished: list[int] = []
    gates = [asyncio.Event() for _ in range(3)]

    async def answer(number: int) -> int:
        await gates[number].wait()
        return number

    in_turn = in_order(answer)
    tasks = [asyncio.create_task(in_turn(number)) for number in range(3)]
    for task in tasks:
        task.add_done_callback(lambda done: finished.append(done.result()))
    for number in (2, 1, 0):
        await asyncio.sleep(0)
        gates[number].set()
        await asyncio.sleep(0)
        assert finished == []
    await asyncio.gather(*tasks)
    await asyncio.sleep(0)
    assert finished == [0, 1, 2]
