"""Traffic that does not wait for answers: requests arrive by chance at a rate; every answer is checked."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Thread

from benchmarks.soak.expected import Expected, Route, Verdict
from benchmarks.stores import TASK
from serving.client.asynchronous import AsyncClient
from serving.client.messages import RequestFailed

TIMEOUT_S = 10.0
STOP = "stop"
"""The phase in which the server is asked to stop."""
_REFUSED = {"RESOURCE_EXHAUSTED": "refused", "DEADLINE_EXCEEDED": "expired"}
_KEPT_PROBLEMS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One request and what became of it.

    Attributes:
        phase: During which it was sent.
        sent: time.monotonic() seconds.
        outcome: A verdict; `refused`, `expired`, or the status code of any other failure.
        details: What the server said of a failure.
    """

    phase: str
    sent: float
    latency_s: float
    outcome: str
    details: str = ""


@dataclass(kw_only=True)
class Traffic:
    """Sends requests from a thread of its own; `rate`, `phase` and `routes` may change meanwhile.

    Attributes:
        rate: Requests a second; 0 pauses.
        routes: What is asked for, each equally often.
        problems: The first few wrong answers and unexpected failures, in words.
    """

    address: str
    expected: Expected
    routes: list[Route]
    rate: float = 0.0
    phase: str = "start"
    calls: list[Call] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    under_way: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._over = False
        self._chance = random.Random(0)
        self._thread = Thread(target=lambda: asyncio.run(self._arrive()), name="traffic")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Sends no more, and waits for what is under way."""
        self._over = True
        self._thread.join()

    def capacity(self, seconds: float, callers: int) -> float:
        """Requests a second that so many callers get answered who each wait for their answer."""
        before = len(self.calls)
        end = time.monotonic() + seconds

        async def call() -> None:
            async with AsyncClient(self.address, timeout_s=60) as client:

                async def ask_on() -> None:
                    while time.monotonic() < end:
                        await self._ask(client)

                await asyncio.gather(*(ask_on() for _ in range(callers)))

        started = time.monotonic()
        asyncio.run(call())
        return (len(self.calls) - before) / (time.monotonic() - started)

    async def _arrive(self) -> None:
        async with AsyncClient(self.address, timeout_s=TIMEOUT_S) as client, asyncio.TaskGroup() as group:
            due = time.monotonic()
            while not self._over:
                now = time.monotonic()
                if self.rate == 0 or due > now:
                    await asyncio.sleep(0.01 if self.rate == 0 else min(due - now, 0.05))
                    due = max(due, now) if self.rate == 0 else due
                    continue
                group.create_task(self._ask(client))
                due += self._chance.expovariate(self.rate)

    async def _ask(self, client: AsyncClient) -> None:
        route = self._chance.choice(self.routes)
        image = self._chance.randrange(len(self.expected.images))
        phase, sent = self.phase, time.monotonic()
        self.under_way[route.text] += 1
        details = ""
        try:
            answer = await client.classify(
                [self.expected.images[image]], route=route.text, task=TASK, probabilities=True
            )
            latency = time.monotonic() - sent
            verdict, details = self.expected.judge(route, image, answer, sent)
            outcome = verdict.value
        except RequestFailed as error:
            latency = time.monotonic() - sent
            outcome, details = _REFUSED.get(error.code, error.code), error.problem
        finally:
            self.under_way[route.text] -= 1
        self.calls.append(Call(phase=phase, sent=sent, latency_s=latency, outcome=outcome, details=details))
        expected = (Verdict.RIGHT.value, *_REFUSED.values())
        if phase != STOP and outcome not in expected and len(self.problems) < _KEPT_PROBLEMS:
            self.problems.append(f"{phase}: {outcome}: {details}")


def seconds_until(true: Callable[[], bool], limit_s: float) -> float | None:
    """How long something takes to become true; None where it takes longer than the limit."""
    started = time.monotonic()
    while not true():
        if time.monotonic() - started > limit_s:
            return None
        time.sleep(0.05)
    return time.monotonic() - started


def outcomes(calls: Sequence[Call]) -> Counter[str]:
    """How many calls ended how."""
    return Counter(call.outcome for call in calls)
