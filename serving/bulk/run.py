"""Bulk classification without a server: many images by one route, answered by a `Service` in this process.

One group of images is in the engine while the next is read and decoded. Groups are always the same, so a run
that was killed and continued gives the same file as one that was not, to the last digit.
"""

import asyncio
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model_store.names import printable
from model_store.routes.algebra import Route
from petl_vit.errors import CorollaError, Overloaded
from petl_vit.image_input import Preprocess
from petl_vit.preprocess import preprocess
from serving.answer.classifier import Classifier
from serving.bulk.output import COLUMNS, PROBABILITIES, Output, Part, Row
from serving.bulk.sources import Source
from serving.registry.catalog import Plan
from serving.request import ImageAnswer, Preprocessed, Request, Response
from serving.service import Service
from serving.settings import Settings

_UNBOUNDED = 2**40
"""The queue never holds more than one group."""


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """Images to classify, by what, and what a row says of each.

    Attributes:
        sources: The images.
        left_out: How many other files lie beside them, by reason; said in the summary.
        task: The task; may be empty where the store has only one.
        top: How many of the most probable classes a row has.
        probabilities: Whether a row has the probability of every class.
        overwrite: Whether an existing output, finished or not, may be replaced.
    """

    sources: Sequence[Source]
    task: str
    route: Route
    top: int = 5
    probabilities: bool = False
    extrapolate: bool = False
    overwrite: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did.

    Attributes:
        images: Rows of the output; `failed` of them have an error, `resumed` come from an earlier run.
        left_out: How many other files lie beside the images, by reason.
        adapters: Digest by `task/name:version`.
        seconds: Of this run.
        precision: Of the forward: fp32 or bf16.
        route_note: Why the temperature is not the one stored for the route, or may not fit; else empty.
    """

    out: str
    images: int
    failed: int
    resumed: int
    left_out: Mapping[str, int]
    seconds: float
    precision: str
    route: str
    adapters: Mapping[str, str]
    backbone_digest: str
    classes: Sequence[str]
    route_note: str = ""


Advance = Callable[[int], None]


def predict(bulk: Bulk, out: Path, settings: Mapping[str, Any], advance: Advance = lambda n: None) -> Summary:
    """Classifies every image and writes the rows to a file.

    Args:
        out: Ends in .jsonl, .csv or .parquet. `OUT.part` beside it has the rows of an unfinished run.
        settings: Those of a server that are not at their defaults.
        advance: Called with the number of newly finished images, first with those of an earlier run.

    Raises:
        CorollaError: A setting, the route or the output cannot work. A bad image is not an error of the run:
            its row has the error.
    """
    started = time.monotonic()
    output = Output(out, overwrite=bulk.overwrite)
    with TemporaryDirectory() as folder:  # nobody sends these prediction ids back, so their key is temporary
        fixed = {
            "prediction_key_file": f"{folder}/key",
            "max_queue_rows": _UNBOUNDED,
            "max_batch_ms": math.inf,  # the rows of a batch depend on nothing that is measured
            "max_queue_bytes": _UNBOUNDED,
            "cascade_full_share": 0.0,  # nobody reads the metrics
            "frozen_share": 0.0,
        }
        service = Service(Settings.read({**settings, **fixed}))
        plan = service.catalog.plan(bulk.task, bulk.route, extrapolate=bulk.extrapolate)
        at_once = 1 if plan.cascade is not None else len(plan.resolved.members)
        group = max(1, service.settings.max_batch_rows // at_once)
        run = _identity(bulk, plan, service, group)
        with Part(out, run, group=group, fresh=bulk.overwrite) as part:
            resumed = part.rows
            advance(resumed)
            asyncio.run(_Run(bulk=bulk, plan=plan, part=part, advance=advance).classify(service, group))
            failed = _write(output, part, bulk, plan)
            part.remove()
    resolved = plan.resolved
    return Summary(
        out=printable(str(out)),
        images=len(bulk.sources),
        failed=failed,
        resumed=resumed,
        left_out=dict(bulk.left_out),
        seconds=round(time.monotonic() - started, 3),
        precision=str(service.precision),
        route=str(resolved),
        adapters={term.full_name: term.digest for term in resolved.terms()},
        backbone_digest=resolved.task.spec.backbone_digest,
        classes=resolved.classes,
        route_note=plan.note,
    )


def _identity(bulk: Bulk, plan: Plan, service: Service, group: int) -> Row:
    """What two runs must share for the one to continue after the rows of the other."""
    resolved = plan.resolved
    paths = "\n".join(f"{source.path}\0{source.file}" for source in bulk.sources)
    return {
        "list of images": hashlib.sha256(paths.encode(errors="surrogateescape")).hexdigest(),
        "images": len(bulk.sources),
        "route": str(resolved),
        "task": resolved.task.digest,
        "adapters": [term.digest for term in resolved.terms()],
        "backbone": resolved.task.spec.backbone_digest,
        "temperature": plan.temperature,
        "thresholds": None if plan.cascade is None else plan.cascade.model_dump(mode="json"),
        "top": bulk.top,
        "probabilities": bulk.probabilities,
        "device": service.device.type,
        "precision": str(service.precision),
        "rows of a batch": group,
    }


def _write(output: Output, part: Part, bulk: Bulk, plan: Plan) -> int:
    """Writes the rows with what is the same in all of them; returns how many have an error."""
    failed = 0
    shared = {
        "route": str(plan.resolved),
        "adapters": [term.full_name for term in plan.resolved.terms()],
    }

    def rows() -> Iterator[Row]:
        nonlocal failed
        for row in part:
            failed += row["error"] is not None
            full = row | shared
            yield {name: full[name] for name in (*COLUMNS, PROBABILITIES) if name in full}

    output.write(rows(), plan.resolved.classes if bulk.probabilities else ())
    return failed


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The images without rows, group by group."""

    bulk: Bulk
    plan: Plan
    part: Part
    advance: Advance

    async def classify(self, service: Service, group: int) -> None:
        """Adds the rows of all remaining images to the part."""
        sources = self.bulk.sources
        groups = [sources[start : start + group] for start in range(self.part.rows, len(sources), group)]
        if not groups:
            return
        async with service.running() as classifier:
            await classifier.in_pool(classifier.announce, self.plan)
            decoder = _Decoder(service.settings, self.plan.resolved.preprocess, classifier)
            decoding = asyncio.create_task(decoder.decode(groups[0]))
            for current, following in zip(groups, [*groups[1:], None], strict=True):
                images = await decoding
                if following is not None:
                    decoding = asyncio.create_task(decoder.decode(following))
                rows = await self._rows(classifier, current, images)
                await classifier.in_pool(self.part.append, rows)
                self.advance(len(current))

    async def _rows(
        self, classifier: Classifier, sources: Sequence[Source], images: "list[Preprocessed | CorollaError]"
    ) -> list[Row]:
        good = [image for image in images if not isinstance(image, CorollaError)]
        answers: Iterator[ImageAnswer | CorollaError] = iter(())
        if good:
            request = Request(task=self.bulk.task, route=self.bulk.route, images=good)
            response: Response = await classifier.answer(request, self.plan, lambda response: response)
            answers = iter(response.images)
        row = partial(_row, classes=self.plan.resolved.classes, bulk=self.bulk)
        return [
            row(source.path, image if isinstance(image, CorollaError) else next(answers))
            for source, image in zip(sources, images, strict=True)
        ]


class _Decoder:
    """Reads and decodes groups of images in the classifier's pool."""

    def __init__(self, settings: Settings, spec: Preprocess, classifier: Classifier) -> None:
        self._settings, self._spec, self._classifier = settings, spec, classifier

    async def decode(self, sources: Sequence[Source]) -> "list[Preprocessed | CorollaError]":
        """Every image ready for the backbone, or what is wrong with it."""
        in_pool = self._classifier.in_pool
        return await asyncio.gather(*(in_pool(self._decoded, source) for source in sources))

    def _decoded(self, source: Source) -> Preprocessed | CorollaError:
        try:
            data = source.read(self._settings.max_message_bytes)
            return preprocess(data, self._spec, max_pixels=self._settings.max_pixels).numpy()
        except CorollaError as error:
            return error


def _row(path: str, answer: ImageAnswer | CorollaError, *, classes: Sequence[str], bulk: Bulk) -> Row:
    row: Row = {"path": path, **dict.fromkeys(COLUMNS[1:])}
    if bulk.probabilities:
        row[PROBABILITIES] = None
    if isinstance(answer, Overloaded):  # not the image's fault: the run can continue when there is room
        raise answer
    if isinstance(answer, CorollaError):
        return row | {"error": str(answer)}
    best = [
        {"label": classes[i], "probability": float(answer.probabilities[i])} for i in answer.best(bulk.top)
    ]
    row |= best[0] | {
        "top": best,
        "agreement": answer.agreement,
        "entropy": answer.entropy,
        "mutual_information": answer.mutual_information,
        "members_asked": answer.members_asked,
    }
    if bulk.probabilities:
        row[PROBABILITIES] = dict(zip(classes, answer.probabilities.tolist(), strict=True))
    return row
