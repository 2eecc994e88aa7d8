"""The study's published results (arXiv 2409.16434), read from the files in `published/`.

Accuracies are shares from 0 to 1. Those of `low_shot` and `by_size` are of the last epoch, in which nothing
was chosen on test images; those of `interpolated` are of the epoch that was best on these very images.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

SOURCE: Final = (
    "Mai et al., Lessons and insights from a unifying study of parameter-efficient fine-tuning (PEFT) in "
    "visual recognition, CVPR 2025, arXiv 2409.16434; result files of github.com/OSU-MLB/PETL_Vision"
)
GROUPS: Final = ("natural", "specialized", "structured")
"""The groups of VTAB-1K's 19 tasks."""
MANY_SHOT: Final = {
    "cifar100-500": "CIFAR-100, 500 images",
    "cifar100-full": "CIFAR-100, 50,000 images",
    "resisc-225": "RESISC45, 225 images",
    "resisc-full": "RESISC45, 25,200 images",
    "clevr_dist-full": "CLEVR distance, 70,000 images",
}
_NAMES = {"lora_p_adapter": "pfeiffer", "rand_h_adapter": "houlsby", "ln": "layernorm"}
_FINAL = "final_epoch_top1"
_METRICS = (_FINAL, "inserted_params", "wise_all", "top1")
_SHIFTED = ("imagenet-v2", "imagenet-r", "imagenet-s", "imagenet-a")
_WISE = re.compile(r"wise_all\[alpha=(\d\.\d)\]")


@dataclass(frozen=True, kw_only=True)
class Sized:
    """One method of one size.

    Attributes:
        parameters: Those that it trains, without the head.
    """

    method: str
    parameters: int
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Interpolated:
    """One method along alpha, on ImageNet and, in the mean, on four shifted sets of it."""

    method: str
    alphas: tuple[float, ...]
    accuracy: tuple[float, ...]
    shifted: tuple[float, ...]


@cache
def low_shot() -> dict[str, dict[str, float]]:
    """VTAB-1K: the mean accuracy in each group of tasks, by method."""
    means: dict[str, dict[str, float]] = {group: {} for group in GROUPS}
    for row in _rows("vtab1k"):
        group = row.dataset.removesuffix("_mean")
        if group in means and row.metric in (_FINAL, f"{_FINAL}[aug_norm_cifar]"):
            means[group][row.method] = row.value / 100
    return means


@cache
def by_size() -> dict[str, list[Sized]]:
    """Accuracy and trained parameters in each setting of `MANY_SHOT`, by parameters."""
    settings: dict[str, list[Sized]] = {name: [] for name in MANY_SHOT}
    rows = {(row.dataset, row.raw, row.metric): row for row in _rows("manyshot")}
    for (dataset, raw, metric), row in rows.items():
        size = rows.get((dataset, raw, "inserted_params"))
        if dataset in settings and metric == _FINAL and size is not None:
            one = Sized(method=row.method, parameters=int(size.value), accuracy=row.value / 100)
            settings[dataset].append(one)
    return {name: sorted(ones, key=lambda one: one.parameters) for name, ones in settings.items()}


@cache
def interpolated() -> list[Interpolated]:
    """WiSE on ImageNet, 100 images a class; methods that were measured at alpha 1 alone come last."""
    points: dict[str, dict[str, dict[float, float]]] = {}
    for row in _rows("wise"):
        found = _WISE.fullmatch(row.metric)
        if found:
            by_set = points.setdefault(row.method, {})
            by_set.setdefault(row.dataset, {})[float(found[1])] = row.value / 100
    curves = [
        Interpolated(
            method=method,
            alphas=tuple(sorted(sets["imagenet"])),
            accuracy=tuple(sets["imagenet"][alpha] for alpha in sorted(sets["imagenet"])),
            shifted=tuple(sets["ood_mean4"][alpha] for alpha in sorted(sets["imagenet"])),
        )
        for method, sets in points.items()
    ]
    return [*curves, *(one for one in _tuned() if one.method not in points)]


def _tuned() -> list[Interpolated]:
    """Methods at alpha 1."""
    points: dict[str, dict[str, float]] = {}
    for row in _rows("imagenet_clip_shift"):
        if row.metric == "top1":
            points.setdefault(row.method, {})[row.dataset] = row.value / 100
    return [
        Interpolated(
            method=method,
            alphas=(1.0,),
            accuracy=(sets["imagenet"],),
            shifted=(sum(sets[name] for name in _SHIFTED) / len(_SHIFTED),),
        )
        for method, sets in points.items()
        if method != "zero_shot"  # where every curve begins
    ]


@dataclass(frozen=True, kw_only=True)
class _Row:
    raw: str
    method: str
    dataset: str
    metric: str
    value: float


def _rows(name: str) -> Iterator[_Row]:
    text = files("training.study.report.published").joinpath(f"{name}.csv").read_text("utf-8")
    for row in csv.DictReader(text.splitlines()):
        if not row["metric"].startswith(_METRICS):
            continue
        method = re.sub(r"_\d+$", "", row["method"])
        yield _Row(
            raw=row["method"],
            method=_NAMES.get(method, method),
            dataset=row["dataset"],
            metric=row["metric"],
            value=float(row["value"]),
        )
