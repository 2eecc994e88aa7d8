"""What all signals of the monitoring cost: the same service with them on and off, side by side.

    python -m benchmarks.monitoring --quick

A route of eight adapters of eight methods over 100 classes, ViT-S/16 at 224 px, in one process without ports.
On: answers are scored by a reference, counted, sealed into prediction ids and drawn for labels, and 2 % of
the images are also put to the frozen backbone. Off: none of it, on the same engine. Both answer the same
images, of which as many are in the frozen share as of all images, in requests that are sent at the same time.

throughput_on_over_off: images for a CPU second of the whole process, on over off; 1 is free, to reach 0.97.
wall_on_over_off: images for a second, which says little where other processes run. answer_us: CPU time from
the logits of an image to its answer, of requests of one and of many images; answer_us_off without signals.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table

from benchmarks import precisions
from benchmarks.adapters import backbone
from benchmarks.estimate import Estimate
from benchmarks.interleave import costs
from benchmarks.report import Figures, Value, emit, parser, progress
from benchmarks.stores import TASK, Shelf, shelf
from model_store.format.records import NamedRoute
from model_store.format.reference import ReferenceData
from model_store.resolution.reference import referenced_route
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.combine import Answer
from petl_vit.precision import Precision
from serving.answer.classifier import Classifier
from serving.answer.image_answer import Counting
from serving.answer.shares import place_of
from serving.metrics.recorder import CascadeCounts, Recorded, Recorder
from serving.registry.catalog import Plan
from serving.request import Request
from serving.service import Service
from training.measure.reference import Observed, reference

METHODS = ("lora", "ssf", "adaptformer", "bitfit", "houlsby", "repadapter", "convpass", "pfeiffer")
ROUTE = "all"
ON, OFF = "signals on", "signals off"
AT_ONCE = 10
"""Images of a request."""
_REFERENCE = 500  # images
ANSWERS = 200  # images whose answers are timed without forwards

Image = NDArray[np.float32]


class Silent(Recorder):
    """Counts nothing of answers, and seals nothing."""

    def answers(
        self,
        named: str | None,
        resolved: object,
        domain: str,
        answer: Answer,
        cascades: Sequence[CascadeCounts] = (),
        *,
        digest: str = "",
    ) -> list[Recorded]:
        return [Recorded(prediction_id="", label_request=None)] * len(answer.predicted)

    def images(self, images: Sequence[object]) -> None: ...


class Both:
    """One service, and two classifiers over its engine: with all signals and with none."""

    def __init__(self, runner: asyncio.Runner, service: Service) -> None:
        self._runner, self._service = runner, service
        self.silent = Silent(service.metrics, service.prediction_ids)
        off = Classifier(
            catalog=service.catalog,
            cache=service.adapter_cache,
            batcher=service.batcher,
            recorder=self.silent,
            pool=service.pool,
            max_images=service.settings.max_images,
            max_pixels=service.settings.max_pixels,
        )
        self._classifiers = {ON: service.classifier, OFF: off}

    def value(self, name: str) -> float:
        """A counter of the route."""
        labels = {"route": f"{TASK}/{ROUTE}", "domain": "unset"}
        return self._service.metrics.registry.get_sample_value(name, labels) or 0.0

    @property
    def plan(self) -> Plan:
        return self._service.catalog.plan(TASK, parse_route(ROUTE), extrapolate=False)

    def classify(self, which: str, images: Sequence[Image]) -> None:
        """Answers every image, all requests at the same time."""
        self._runner.run(self._classify(self._classifiers[which], images))

    async def _classify(self, classifier: Classifier, images: Sequence[Image]) -> None:
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(images), AT_ONCE):
                group.create_task(_answered(classifier, images[start : start + AT_ONCE]))

    def answer(self, recorder: Recorder, logits: NDArray[np.float64], at_once: int) -> None:
        """The answers of members' logits [n, K, C], so many images at a time."""
        counting = Counting(plan=self.plan, recorder=recorder, domain="unset")
        for start in range(0, len(logits), at_once):
            of_request = [list(of_image) for of_image in logits[start : start + at_once]]
            counting.answers(of_request, [False] * len(of_request))

    def answer_us(self, recorder: Recorder, at_once: int) -> float:
        """CPU microseconds of an image."""
        members, classes = len(METHODS), len(self.plan.resolved.classes)
        logits = np.random.default_rng(0).normal(size=(ANSWERS, members, classes))
        taken = []
        for _ in range(5):
            started = time.process_time()
            self.answer(recorder, logits, at_once)
            taken.append(time.process_time() - started)
        return 1e6 * min(taken) / ANSWERS

    @property
    def recorder(self) -> Recorder:
        """One that counts, beside the classifier's own."""
        recorder = Recorder(self._service.metrics, self._service.prediction_ids)
        for each in (recorder, self.silent):
            each.announce(self.plan.named, self.plan.resolved)
        return recorder


async def _answered(classifier: Classifier, images: Sequence[Image]) -> None:
    request = Request(task=TASK, route=parse_route(ROUTE), images=list(images))
    for answer in await classifier.classify(request, lambda said: said.images):
        if isinstance(answer, Exception):
            raise answer


@contextmanager
def both(found: Shelf, precision: Precision) -> Iterator[Both]:
    """A running service."""
    service = Service(found.settings(precision=precision.value, threads=torch.get_num_threads()))
    with asyncio.Runner() as runner:
        try:
            runner.run(_started(service))
            yield Both(runner, service)
        finally:
            runner.run(_drained(service))
            service.close()


async def _started(service: Service) -> None:
    service.start()
    await service.warm()


async def _drained(service: Service) -> None:
    await service.drain()


def put_route(found: Shelf) -> None:
    """Names the route of all adapters."""
    store = Store.open(found.url)
    store.routes.put(NamedRoute.of(task=TASK, name=ROUTE, route=", ".join(found.adapters), temperature=1.3))


def put_reference(found: Shelf, plan: Plan, width: int, precision: Precision) -> None:
    """A reference of the route on images of random logits and features, by which its answers are scored."""
    random, classes = np.random.default_rng(1), plan.resolved.classes
    labels = random.integers(0, len(classes), _REFERENCE)
    logits = random.normal(size=(_REFERENCE, len(METHODS), len(classes)))
    logits[np.arange(_REFERENCE), :, labels] += 1.0
    observed = Observed(
        logits=logits,
        labels=labels,
        features=random.normal(size=(_REFERENCE, width)),
        base=random.integers(0, len(classes), _REFERENCE),
    )
    route = referenced_route(plan.resolved, plan.temperature, name=ROUTE)
    data = ReferenceData(name="random", digest="0" * 64, images=_REFERENCE)
    measured = reference(observed, route=route, data=data, classes=classes, precision=precision)
    Store.open(found.url).references.put(measured)


def images_of(size: int, count: int, share: float) -> list[Image]:
    """Random images, of which as large a share is in the frozen share as of all images; at least one."""
    random, inside = np.random.default_rng(2), max(1, round(count * share))
    chosen: dict[bool, list[Image]] = {True: [], False: []}
    while len(chosen[True]) < inside or len(chosen[False]) < count - inside:
        image = random.standard_normal((3, size, size), np.float32)
        chosen[place_of(image) < share].append(image)
    return chosen[True][:inside] + chosen[False][: count - inside]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Of one precision.

    Attributes:
        cpu, wall: Seconds of every round, by variant.
        frozen: Images of a phase with signals that were put to the frozen backbone.
        answer_us: CPU microseconds from logits to an answer, by variant and images of a request.
    """

    cpu: dict[str, list[float]]
    wall: dict[str, list[float]]
    frozen: float
    answer_us: dict[tuple[str, int], float]


def measure(found: Shelf, images: Sequence[Image], width: int, precision: Precision, rounds: int) -> Measured:
    """Times both variants in turn."""
    with both(found, precision) as plain:
        put_reference(found, plain.plan, width, precision)
    wall: dict[str, list[float]] = {ON: [], OFF: []}
    with both(found, precision) as service:

        def timed(which: str) -> Callable[[], float]:
            def run() -> float:
                started, began = time.process_time(), time.monotonic()
                service.classify(which, images)
                wall[which].append(time.monotonic() - began)
                return time.process_time() - started

            return run

        cpu = costs({name: timed(name) for name in (ON, OFF)}, rounds=rounds, warmup=1, progress=progress)
        frozen = service.value("corolla_frozen_predictions_total")
        assert service.value("corolla_feature_distance_ratio_count") == frozen, "its reference is in use"
        recorders = {ON: service.recorder, OFF: service.silent}
        answer_us = {
            (name, at_once): service.answer_us(recorder, at_once)
            for name, recorder in recorders.items()
            for at_once in (1, AT_ONCE)
        }
    return Measured(
        cpu=cpu,
        wall={name: taken[1:] for name, taken in wall.items()},  # the first is the warm-up
        frozen=frozen / (rounds + 1),
        answer_us=answer_us,
    )


def _speed(taken: dict[str, list[float]]) -> Estimate:
    return Estimate.of([off / on for on, off in zip(taken[ON], taken[OFF], strict=True)])


def figures(measured: Measured, images: int) -> Figures:
    """The keys of one precision."""
    return {
        "throughput_on_over_off": _speed(measured.cpu),
        "wall_on_over_off": _speed(measured.wall),
        "on_ms": 1000 * statistics.median(measured.cpu[ON]) / images,
        "off_ms": 1000 * statistics.median(measured.cpu[OFF]) / images,
        "frozen_images": measured.frozen,
        "answer_us": {str(n): us for (name, n), us in measured.answer_us.items() if name == ON},
        "answer_us_off": {str(n): us for (name, n), us in measured.answer_us.items() if name == OFF},
    }


def _flags() -> argparse.ArgumentParser:
    flags = parser(__doc__ or "")
    precisions.add_flag(flags)
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--classes", type=int, default=100)
    flags.add_argument("--images", type=int, default=50, help="of one phase")
    flags.add_argument("--rounds", type=int)
    return flags


def main(given: Sequence[str] | None = None) -> None:
    asked = _flags().parse_args(given)
    rounds = asked.rounds or (2 if asked.quick else 7)
    vit, _ = backbone(asked.architecture, asked.image_size)
    tables, found = [], {}
    with shelf(vit, METHODS, len(METHODS), classes=asked.classes) as store:
        put_route(store)
        share = store.settings().frozen_share
        images = images_of(asked.image_size, asked.images, share)
        for precision in precisions.chosen(asked.precision):
            progress(f"{precision}: {len(images)} images under {len(METHODS)} members, on and off")
            measured = measure(store, images, vit.arch.width, precision, rounds)
            found[precision] = figures(measured, len(images))
            tables.append(_table(measured, len(images), f"{asked.architecture}, {precision}"))
    settings: dict[str, Value] = {
        "architecture": asked.architecture,
        "image_size": asked.image_size,
        "members": len(METHODS),
        "classes": asked.classes,
        "images": len(images),
        "images_of_a_request": AT_ONCE,
        "frozen_share": share,
        "rounds": rounds,
    }
    emit("monitoring", tables, precisions.figures(found) | settings)


def _table(measured: Measured, images: int, title: str) -> Table:
    table = Table("", "CPU ms an image", "on / off", "us an answer, 1 at once", f"{AT_ONCE}", title=title)
    for name, taken in measured.cpu.items():
        table.add_row(
            name,
            f"{1000 * statistics.median(taken) / images:.1f}",
            str(_speed(measured.cpu)) if name == ON else "",
            f"{measured.answer_us[name, 1]:.0f}",
            f"{measured.answer_us[name, AT_ONCE]:.0f}",
        )
    return table


if __name__ == "__main__":
    main()
