"""A long run at most of what a server can do, with everything that happens to servers.

    python -m benchmarks.soak --minutes 30
    python -m benchmarks.soak --quick

`corolla serve` over a store of 24 adapters, two versions of each, of which half fit into its host memory; all
on loopback, in a temporary folder. First the answers a second are measured that eight callers get; then
requests of one image arrive by chance at 70 % of that rate, whether answers come or not. Phases follow each
other, again and again: steady; churn (loads, unloads, adapters that are published and deleted); switches
(aliases and a named route); clients (slow, silent, dying); retraining beside the server; a burst of three
times the rate; everything at once. Every answer is compared with what this process computes from the store
for the versions that it names, and these must be what the request's names stood for. At the end the server is
asked to stop under traffic.

wrong_answers, failures: to be 0; an answer by a former version more than 5 s after a move counts as stale.
memory_mib, heap_used_mib, heap_free_mib, handles, threads, tasks: Theil-Sen's slope an hour and its 95 %
interval, after the first quarter.
at_rest: the same after each cycle, once no call is under way: what waits in a queue takes memory, too.
recovery_s: from the end of a burst until, for two seconds, no call is refused and the median is at most
the 95th percentile before it. p99_ms: by phase. lost_at_stop: accepted calls without an answer, to be 0.
The rate is a share of what was measured at the start: other work on the machine makes it mean more or less.
"""

import argparse
import os
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any

from rich.table import Table

from benchmarks.adapters import backbone
from benchmarks.pictures import jpeg
from benchmarks.processes import Corolla, corolla
from benchmarks.report import Figures, Value, emit, parser, progress, stop_on_terminate
from benchmarks.soak import disturbances
from benchmarks.soak.disturbances import BLEND, KINDS, PROD, Scene, guarded
from benchmarks.soak.expected import TOLERANCE, Expected, Route
from benchmarks.soak.growth import Growth
from benchmarks.soak.phases import Latencies, recovery_s, refused
from benchmarks.soak.traffic import STOP, Call, Traffic, outcomes, seconds_until
from benchmarks.stores import TASK, shelf
from model_store.format.records import NamedRoute
from model_store.store import Store

METHODS = ("lora", "ssf", "adaptformer", "bitfit", "vpt_deep", "repadapter")
LOAD, BURST = 0.7, 3.0
IMAGES = 4
_PHASE_S = 128.0
_STOP_S = 60.0
_REST_S = 12.0
"""The server measures its heap every ten seconds."""


@dataclass(kw_only=True)
class Run:
    """What was done and found besides the calls."""

    scene: Scene
    phase_s: float
    recoveries: list[float | None] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)
    at_rest: list[Mapping[str, float]] = field(default_factory=list)

    def phase(self, name: str) -> None:
        """One phase from its beginning to its end."""
        progress(f"{name}: {self.phase_s:.0f} s")
        self.scene.traffic.phase = name
        with _going_on(self.scene, KINDS[name]):
            if name == "burst":
                self._burst()
            else:
                time.sleep(self.phase_s)
        self.loads.append(os.getloadavg()[0])

    def _burst(self) -> None:
        """Three times the rate for a sixth of the phase, in its middle."""
        traffic, rate = self.scene.traffic, self.scene.traffic.rate
        began = time.monotonic()
        time.sleep(self.phase_s / 4)
        burst = time.monotonic()
        traffic.rate = BURST * rate
        time.sleep(self.phase_s / 6)
        traffic.rate, over = rate, time.monotonic()
        time.sleep(self.phase_s * 7 / 12)
        before = [call for call in list(traffic.calls) if began <= call.sent < burst]
        self.recoveries.append(recovery_s(before, list(traffic.calls), over))


@contextmanager
def _going_on(scene: Scene, kinds: Sequence[disturbances.Disturbance]) -> Iterator[None]:
    over = Event()
    threads = [Thread(target=guarded, args=(kind, scene, over), daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def second_versions(scene: Scene) -> None:
    """Learns the first versions, publishes second ones, and gives the names that move their first meaning."""
    for seed, name in enumerate(scene.names):
        digest = scene.expected.learn(f"{name}:1")
        scene.publish(name, METHODS[seed % len(METHODS)], 1000 + seed)
        scene.store.adapters.set_alias(TASK, name, PROD, 1)
        with scene.expected.moving(f"{name}@{PROD}", digest):
            pass
    first = f"{scene.names[0]}:1"
    scene.store.routes.put(NamedRoute.of(task=TASK, name=BLEND, route=first, temperature=1.0))
    with scene.expected.moving(BLEND, scene.expected.digest(first)):
        pass
    assert scene.expected.closest() > 5 * TOLERANCE, "two versions cannot be told apart"


def routes(names: Sequence[str]) -> list[Route]:
    """Versions alone, names that move, and ensembles of both."""
    alone = [Route.of(f"{name}:{version}") for name in names for version in (1, 2)]
    moving = [Route.of(f"{name}@{PROD}") for name in names]
    pairs = [Route.of(f"{a}:1", f"{b}@{PROD}") for a, b in zip(names[::2], names[1::2], strict=False)]
    return [*alone, *moving, *pairs, Route.of(BLEND), Route.of(BLEND)]


def stop_under_load(server: Corolla, traffic: Traffic) -> tuple[float | None, int]:
    """Seconds until a server that is asked to stop has ended, and the calls it took and did not answer."""
    traffic.phase = STOP
    time.sleep(2)
    server.tree.process.terminate()
    ended = seconds_until(lambda: server.tree.process.poll() is not None, _STOP_S)
    traffic.stop()
    lost = [call for call in traffic.calls if call.phase == STOP and _is_lost(call)]
    for call in lost[:3]:
        progress(f"lost at the stop: {call.outcome}: {call.details}")
    return ended, len(lost)


def _is_lost(call: Call) -> bool:
    """Whether a call was taken and then not answered; not one that was refused, or reached nobody."""
    if call.outcome == "UNAVAILABLE":
        return "ended before the answer" in call.details
    return call.outcome not in ("right", "stale", "refused", "expired")


def soak(asked: Any, seconds: float) -> tuple[list[Table], Figures]:
    """The whole run."""
    vit, _ = backbone(asked.architecture, asked.image_size)
    cycles = max(1, round(seconds / (len(asked.phases) * asked.phase_s)))
    phase_s = seconds / (len(asked.phases) * cycles)
    with shelf(vit, METHODS, asked.adapters) as found:
        images = [jpeg(seed) for seed in range(IMAGES)]
        store = Store.open(found.url)
        expected = Expected(store=store, images=images, preprocess=found.preprocess)
        traffic = Traffic(address="", expected=expected, routes=routes(found.adapters))
        scene = Scene(
            address="",
            store=store,
            folder=found.folder,
            vit=vit,
            names=found.adapters,
            expected=expected,
            traffic=traffic,
            pause_s=min(0.5, phase_s / 10),
            train_flags=["--image-size", str(asked.image_size), "--device", "cpu"],
        )
        second_versions(scene)
        sizes = sorted(path.stat().st_size for path in found.folder.rglob("adapter.safetensors"))
        room = max(sum(sizes) // 2, 2**20, 2 * sum(sizes[-2:]))  # each ensemble of two fits, not all adapters
        flags = ["--precision", "fp32", "--host-bytes", str(room)]
        if asked.threads:
            flags += ["--threads", str(asked.threads)]
        with corolla(found, *flags) as server:
            traffic.address = scene.address = server.address
            return _in_phases(server, Run(scene=scene, phase_s=phase_s), cycles, asked)


def _in_phases(server: Corolla, run: Run, cycles: int, asked: Any) -> tuple[list[Table], Figures]:
    traffic = run.scene.traffic
    measured_s = min(20.0, run.phase_s)
    traffic.capacity(measured_s / 4, 8)  # the first of everything takes longer
    capacity = traffic.capacity(measured_s, 8)
    rate = asked.rate or LOAD * capacity
    progress(f"{capacity:.1f} answers/s at most; {rate:.1f} requests/s from now on")
    growth = Growth(server=server, every_s=min(5.0, run.phase_s / 10))
    traffic.start()
    growth.start()
    for cycle in range(cycles):
        progress(f"cycle {cycle + 1} of {cycles}")
        traffic.rate = rate
        for name in asked.phases:
            run.phase(name)
        traffic.phase, traffic.rate = "rest", 0.0
        seconds_until(lambda: not traffic.under_way.total(), _STOP_S)
        time.sleep(min(_REST_S, run.phase_s))
        run.at_rest.append(growth.sample())
    growth.stop()
    capacity_after = traffic.capacity(measured_s, 8)
    traffic.rate = rate
    stop_s, lost = stop_under_load(server, traffic)
    calls = [call for call in traffic.calls if call.phase in KINDS]
    tables = [_phases(calls), _growths(growth), _done(run)]
    figures = _figures(calls, run, growth) | {
        "requests_per_s": rate,
        "capacity_per_s": capacity,
        "capacity_after_per_s": capacity_after,
        "stop_s": stop_s,
        "lost_at_stop": lost,
        "adapters": asked.adapters,
        "server_threads": asked.threads,
    }
    return tables, figures


def _figures(calls: Sequence[Call], run: Run, growth: Growth) -> dict[str, Any]:
    counted = outcomes(calls)
    expected = ("right", "stale", "wrong", "refused", "expired")
    for problem in [*run.scene.traffic.problems, *run.scene.problems][:20]:
        progress(f"problem: {problem}")
    by_phase = {name: [call for call in calls if call.phase == name] for name in KINDS}
    recoveries = [seconds for seconds in run.recoveries if seconds is not None]
    return {
        "requests": len(calls),
        "wrong_answers": counted["wrong"],
        "stale_answers": counted["stale"],
        "failures": sum(count for outcome, count in counted.items() if outcome not in expected),
        "problems": len(run.scene.problems),
        "refused_outside_bursts": sum(refused(by_phase[name]) for name in KINDS if name != "burst"),
        "p99_ms": {name: Latencies.of(by_phase[name]).p99 for name in KINDS},
        "recovery_s": max(recoveries, default=None) if len(recoveries) == len(run.recoveries) else None,
        "slopes_an_hour": {name: slope.an_hour for name, slope in growth.slopes().items()},
        "slopes_low": {name: slope.low for name, slope in growth.slopes().items()},
        "slopes_high": {name: slope.high for name, slope in growth.slopes().items()},
        "at_rest": {name: [taken[name] for taken in run.at_rest] for name in run.at_rest[0]},
        "load_average_median": statistics.median(run.loads),
        "load_average_highest": max(run.loads),
    }


def _phases(calls: Sequence[Call]) -> Table:
    columns = ("phase", "requests", "p50 ms", "p95 ms", "p99 ms", "refused", "stale", "wrong", "failed")
    table = Table(*columns, title="calls by phase")
    for name in KINDS:
        own = [call for call in calls if call.phase == name]
        found, counted = Latencies.of(own), outcomes(own)
        failed = counted.total() - sum(counted[what] for what in ("right", "stale", "wrong")) - refused(own)
        numbers = [f"{found.p50:.0f}", f"{found.p95:.0f}", f"{found.p99:.0f}", f"{refused(own)}"]
        numbers += [f"{counted['stale']}", f"{counted['wrong']}", f"{failed}"]
        table.add_row(name, str(len(own)), *numbers)
    return table


def _growths(growth: Growth) -> Table:
    table = Table("of the server", "first", "last", "an hour [95 %]", title="growth after the first quarter")
    for name, slope in growth.slopes().items():
        table.add_row(name, f"{slope.first:.1f}", f"{slope.last:.1f}", str(slope))
    return table


def _done(run: Run) -> Table:
    table = Table("what happened", "times", title="disturbances")
    for what, count in sorted(Counter(run.scene.done).items()):
        table.add_row(what, str(count))
    for number, seconds in enumerate(run.recoveries):
        shown = "not within the phase" if seconds is None else f"{seconds:.1f} s"
        table.add_row(f"recovery after burst {number + 1}", shown)
    return table


def _phase_names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in KINDS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not a phase; there are {', '.join(KINDS)}")
    return names


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--minutes", type=float, help="of all phases together; 30, or 2 with --quick")
    flags.add_argument("--phase-s", type=float, default=_PHASE_S, help="about so long is a phase")
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--adapters", type=int, default=24)
    flags.add_argument("--threads", type=int, help="CPU threads of the server's forwards; default: its own")
    flags.add_argument("--rate", type=float, help="requests a second, in place of 70 %% of the most")
    flags.add_argument(
        "--phases",
        type=_phase_names,
        default=list(KINDS),
        help=f"comma-separated, of a cycle; default: {','.join(KINDS)}",
    )
    asked = flags.parse_args(given)
    minutes = asked.minutes or (2.0 if asked.quick else 30.0)
    tables, figures = soak(asked, 60 * minutes)
    own: dict[str, Value] = {
        "architecture": asked.architecture,
        "image_size": asked.image_size,
        "minutes": minutes,
    }
    emit("soak", tables, own | dict(figures), packages=("grpcio",))


if __name__ == "__main__":
    stop_on_terminate()
    main()
