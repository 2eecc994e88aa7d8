"""Steps of training over one frozen backbone: against PEFT, against full fine-tuning, together, and cached.

    python -m benchmarks.training --quick

CPU time of a step (forward, backward, optimiser) of 16 images, interleaved in one process, on random images:

lora_over_peft_step: our LoRA over HF PEFT's on the same timm model, without dropout and drop path; both start
alike and are checked to have one loss and one gradient; in bf16 PEFT's runs under autocast.
petl_over_full_step: the slowest method but VPT-Shallow over full fine-tuning, at default settings.
four_joint_over_four_runs: LoRA, SSF, AdaptFormer and BitFit in one forward over the four alone.
linear_epoch_cached_over_uncached: an epoch of the head on features that are computed once, over one that
computes them.
peak_memory_over_peft: peak resident memory of a process that trains our LoRA over that of one that trains
PEFT's, or what it grew by over the same, the larger of the two. grown_over_said: what ours grew by over what
a run says before it starts; within 0.2 of 1 is as said.

To reach, at most: 0.95, 0.72, 0.85, 0.05 and 1.0. In bf16 (`*_bf16`) everybody is in bf16.
"""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rich.table import Table

from benchmarks import precisions
from benchmarks.estimate import Estimate
from benchmarks.interleave import Costs, cpu_seconds
from benchmarks.report import Figures, Value, emit, parser, progress, stop_on_terminate
from benchmarks.training_inside import peaks
from benchmarks.training_inside.peaks import Peak
from benchmarks.training_inside.steps import Ground, Peft, Several, ours
from petl_vit import heap, methods
from petl_vit.precision import Precision
from training.run.features import Features
from training.run.feed import Images

OURS, PEFT, FULL, JOINT = "lora without noise", "peft's lora", "full", "four together"
CACHED, UNCACHED = "linear, a cached epoch", "linear, an epoch"
FOUR = ("lora", "ssf", "adaptformer", "bitfit")
_LEFT_OUT = ("vpt_shallow", "full")
_MIB = 2**20


def measure(ground: Ground, names: Sequence[str], rounds: int) -> Costs:
    """CPU seconds of every step and epoch, in every round."""
    alike = ground.trainer("lora", noise=False)
    peft = Peft(ground, alike)
    peft.check(alike)
    variants: dict[str, Callable[[], object]] = {OURS: ours(ground, [alike]), PEFT: peft.step}
    variants |= {name: ours(ground, [ground.trainer(name)]) for name in names}
    variants[JOINT] = ours(ground, [ground.trainer(name) for name in FOUR])
    images = Several(ground)
    features = Features(images, ground.trainer("linear").recipe, ground.on)
    variants[UNCACHED] = partial(_epoch, ground, images, given_features=False)
    variants[CACHED] = partial(_epoch, ground, features, given_features=True)
    return cpu_seconds(variants, rounds=rounds, warmup=1)


def _epoch(ground: Ground, images: Images, *, given_features: bool) -> None:
    ground.trainer("linear", given_features=given_features).run(images)


def figures(taken: Costs, ours_peak: Peak, peft_peak: Peak) -> Figures:
    """The keys of one precision."""
    over_full = {name: _over(taken, [name], [FULL]) for name in taken if name in methods.names()}
    counted = {name: ratio for name, ratio in over_full.items() if name not in _LEFT_OUT}
    slowest = max(counted, key=lambda name: counted[name])
    whole, grown = ours_peak.most / peft_peak.most, ours_peak.grown / peft_peak.grown
    return {
        "lora_over_peft_step": _over(taken, [OURS], [PEFT]),
        "petl_over_full_step": counted[slowest],
        "slowest": slowest,
        "over_full": over_full,
        "four_joint_over_four_runs": _over(taken, [JOINT], FOUR),
        "linear_epoch_cached_over_uncached": _over(taken, [CACHED], [UNCACHED]),
        "peak_memory_over_peft": max(whole, grown),
        "peak_memory_over_peft_whole": whole,
        "peak_memory_over_peft_grown": grown,
        "peak_mib": ours_peak.most / _MIB,
        "grown_over_said": ours_peak.grown / ours_peak.said if ours_peak.said else None,
        "step_ms": Estimate.of([1000 * seconds for seconds in taken[OURS]]),
    }


def _over(taken: Costs, some: Sequence[str], others: Sequence[str]) -> Estimate:
    """What some take together over what others do, over paired rounds."""
    sums = [
        [sum(costs) for costs in zip(*(taken[name] for name in names), strict=True)]
        for names in (some, others)
    ]
    return Estimate.of([a / b for a, b in zip(*sums, strict=True)])


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    precisions.add_flag(flags)
    flags.add_argument("--architecture", default="vit_small_patch16_224")
    flags.add_argument("--image-size", type=int, default=224)
    flags.add_argument("--batch", type=int, default=16)
    flags.add_argument("--rounds", type=int)
    flags.add_argument("--methods", default=",".join(methods.names()), help="separated by commas")
    asked = flags.parse_args(given)
    heap.keep(os.environ)  # as `corolla train` does
    rounds = asked.rounds or (3 if asked.quick else 9)
    names = list(dict.fromkeys((*FOUR, "full", *asked.methods.split(","))))
    found: dict[Precision, Figures] = {}
    tables = []
    for precision in precisions.chosen(asked.precision):
        progress(f"{precision}: peaks of memory")
        ground = Ground(
            architecture=asked.architecture,
            image_size=asked.image_size,
            batch=asked.batch,
            precision="bf16" if precision is Precision.BF16 else "fp32",
        )
        of_ours, of_peft = peaks.measure(ground)
        progress(f"{precision}: {rounds} rounds of {len(names)} methods")
        taken = measure(ground, names, rounds)
        found[precision] = figures(taken, of_ours, of_peft)
        title = f"{ground.batch} images, {ground.architecture}, {ground.image_size} px, {precision}"
        tables += [_times(taken, title), _memory({"corolla": of_ours, "peft": of_peft}, title)]
    asked_for: dict[str, Value] = {
        "architecture": asked.architecture,
        "image_size": asked.image_size,
        "batch": asked.batch,
        "rounds": rounds,
    }
    emit("training", tables, asked_for | precisions.figures(found), packages=("peft",))


def _times(taken: Costs, title: str) -> Table:
    table = Table("a step of", "CPU ms (median)", "over full", title=title)
    for name in sorted(taken, key=lambda name: statistics.median(taken[name])):
        median = 1000 * statistics.median(taken[name])
        table.add_row(name, f"{median:.0f}", str(_over(taken, [name], [FULL])))
    return table


def _memory(found: Mapping[str, Peak], title: str) -> Table:
    table = Table("LoRA by", "MiB before", "most", "grown by", title=f"resident memory, {title}")
    for name, peak in found.items():
        table.add_row(name, *(f"{size / _MIB:.0f}" for size in (peak.before, peak.most, peak.grown)))
    return table


if __name__ == "__main__":
    stop_on_terminate()
    main()
