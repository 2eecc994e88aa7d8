"""Requests of varied sizes over varied routes from four callers, each of whom waits for its answer.

One caller's sequence of requests is always the same; how they meet in batches is not.
"""

import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from benchmarks.pictures import HEIGHT, WIDTH, jpeg
from benchmarks.stores import TASK
from serving.client.blocking import Client

CALLERS = 4
SIZES = (1, 1, 2, 3, 5, 8, 13)
"""Images of a request."""
_JPEGS = 32


def routes(adapters: Sequence[str]) -> list[str]:
    """Each adapter alone, as an ensemble with its neighbours, and scaled; a sum, and all of them."""
    pairs = zip(adapters, [*adapters[1:], adapters[0]], strict=True)
    mixed = [route for a, b in pairs for route in (a, f"0.5*{a}", f"{a}, 0.7*{b}")]
    return [*mixed, f"0.5*{adapters[-1]} + 0.5*{adapters[-2]}", ", ".join(adapters)]


def waiting_bytes(image_size: int, decoders: int) -> int:
    """What the images of all callers take at most: float32 [3, S, S] each, and some being decoded."""
    return CALLERS * max(SIZES) * 3 * image_size**2 * 4 + decoders * 3 * WIDTH * HEIGHT


@contextmanager
def asked(address: str, adapters: Sequence[str]) -> Iterator[list[int]]:
    """A server that is asked until the block ends; the images that each caller has had answers for."""
    jpegs, over = [jpeg(seed) for seed in range(_JPEGS)], threading.Event()
    answered, found = [0] * CALLERS, routes(adapters)

    def call(caller: int) -> None:
        chosen = random.Random(caller)
        with Client(address, timeout_s=600) as client:
            while not over.is_set():
                images = chosen.choices(jpegs, k=chosen.choice(SIZES))
                reply = client.classify(images, route=chosen.choice(found), task=TASK)
                failed = next((one.error.message for one in reply.results if one.error.code), None)
                assert failed is None, failed
                answered[caller] += len(images)

    with ThreadPoolExecutor(CALLERS, thread_name_prefix="caller") as pool:
        calls: list[Future[None]] = [pool.submit(call, caller) for caller in range(CALLERS)]
        try:
            yield answered
        finally:
            over.set()
        for ended in calls:
            ended.result()
