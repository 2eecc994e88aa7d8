"""The learning rates of a run that names none: by method, number of steps and where the head starts.

The study's best rate, 1e-3, is of runs of about 1,500 steps. A shorter run moves its tensors less far, and
those that start at zero hardly at all, so it takes a higher rate: as much higher as the square root of how
much shorter it is. Under about 70 steps the rate falls again, as there are too few to recover from the first
large ones. A head that starts from the probe suits the features already; at the adapter's rate its own noise
costs more than the adapter gains, so it follows at a tenth. docs/training.md has the measurements.
"""

import math
from dataclasses import replace

from training.progress import Reporter
from training.run.planned import Planned

_STUDY_STEPS = 1500
_FEW_STEPS = 15
_HEAD_SHARE = 0.1
_STARTS = {"probe": "the base head", "random": "random numbers"}


def settled(adapter: Planned, images: int) -> Planned:
    """The adapter with learning rates in its recipe: those that it names, or else those that suit the run.

    Args:
        images: How many are trained on.
    """
    recipe, method = adapter.recipe, adapter.method
    if recipe.learning_rate is not None:
        return adapter
    steps = recipe.epochs * math.ceil(images / recipe.batch_size)
    rate = method.learning_rate
    head = method.head_learning_rate or rate
    if method.faster_if_short:
        faster = max(1.0, min(math.sqrt(_STUDY_STEPS / steps), steps / _FEW_STEPS))
        rate, head = _rounded(rate * faster), _rounded(head * faster)
        if recipe.head_init == "probe":
            head = _rounded(head * _HEAD_SHARE)
    update = {"learning_rate": rate, "head_rate": head if recipe.head_rate is None else recipe.head_rate}
    return replace(
        adapter,
        recipe=recipe.model_copy(update=update),
        rates_for=f"{method.name}, {steps:,} steps, the head from {_STARTS[recipe.head_init]}",
    )


def tell(adapter: Planned, reporter: Reporter) -> None:
    """Says which rates were chosen, and for what."""
    if adapter.rates_for:
        rate, head = adapter.recipe.highest_rates
        reporter.note(
            f"{adapter.name}: learning rate {rate:g}, the head's {head:g}, chosen for {adapter.rates_for}; "
            "--lr and --head-lr choose others"
        )


def _rounded(rate: float) -> float:
    """To two digits, as people write rates."""
    return float(f"{rate:.1e}")
