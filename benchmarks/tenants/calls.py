"""Calls that come when they come: an open loop, in which a slow server does not slow its callers down."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

from benchmarks.tenants.servers import Variant
from benchmarks.tenants.store import ADAPTER
from benchmarks.tenants.workload import Tenant
from serving.client.asynchronous import AsyncClient

_PATIENCE_S = 900.0


def latencies(
    variant: Variant, tasks: Sequence[Tenant], images: Sequence[bytes], arrivals: Sequence[tuple[float, int]]
) -> list[float]:
    """Seconds from the time when each call was due to its answer, in the order of arrivals."""
    with variant.running():
        return asyncio.run(_latencies(variant, tasks, images, arrivals))


async def _latencies(
    variant: Variant, tasks: Sequence[Tenant], images: Sequence[bytes], arrivals: Sequence[tuple[float, int]]
) -> list[float]:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(server.address, timeout_s=_PATIENCE_S))
            for server in variant.servers
        ]
        loop = asyncio.get_running_loop()
        start = loop.time() + 0.2

        async def call(due: float, tenant: Tenant, image: bytes) -> float:
            reply = await clients[variant.place[tenant.task]].classify(
                [image], route=ADAPTER, task=tenant.task, client=tenant.task
            )
            assert not reply.results[0].error.code, reply.results[0].error.message
            return loop.time() - start - due

        calls = []
        for number, (due, task) in enumerate(arrivals):
            await asyncio.sleep(start + due - loop.time())
            calls.append(asyncio.create_task(call(due, tasks[task], images[number % len(images)])))
        return await asyncio.gather(*calls)


def capacity(variant: Variant, tasks: Sequence[Tenant], images: Sequence[bytes], requests: int) -> float:
    """Requests that are answered in a second when all come at once, each task as often as it asks."""
    drawn = _evenly(tasks, requests)
    return requests / max(latencies(variant, tasks, images, [(0.0, task) for task in drawn]))


def _evenly(tasks: Sequence[Tenant], requests: int) -> list[int]:
    """So many tasks by number, each as often as its demand says, mixed."""
    owed = [0.0] * len(tasks)
    drawn = []
    for _ in range(requests):
        owed = [owing + tenant.demand for owing, tenant in zip(owed, tasks, strict=True)]
        most = max(range(len(tasks)), key=owed.__getitem__)
        owed[most] -= 1
        drawn.append(most)
    return drawn
