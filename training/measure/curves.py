"""Adapters between the frozen model and what was trained: accuracy by alpha on every set (WiSE).

WiSE: arXiv 2109.01903. Alpha 0 is the base of the adapter's task, alpha 1 the adapter as it was trained.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from model_store.resolution.versions import Member, ResolvedRoute, ResolvedTerm
from petl_vit.errors import InvalidInput
from training.measure.choices import Option, choose, rules_of
from training.measure.figures import Curve
from training.measure.robustness import beyond, fitted

ALPHAS = tuple(round(0.1 * i, 1) for i in range(11))
"""The study's."""


def checked(alphas: Sequence[float], *, extrapolate: bool) -> tuple[float, ...]:
    """Alphas in order, each once, and 0 and 1 among them, which every curve is read by.

    Raises:
        InvalidInput: One is outside [0, 1] and that is not allowed.
    """
    outside = [alpha for alpha in alphas if not 0 <= alpha <= 1]
    if outside and not extrapolate:
        raise InvalidInput(
            f"alpha {outside[0]:g} lies outside [0, 1]",
            field="alphas",
            remedy="choose some inside, such as 0,0.25,0.5,0.75,1, or allow it by --extrapolate",
        )
    return tuple(sorted({0.0, 1.0, *alphas}))


def at_alpha(route: ResolvedRoute, alpha: float) -> ResolvedRoute:
    """The route of one adapter at another alpha; at 0 the base, which all adapters of a task share."""
    term = route.members[0].terms[0]
    other = (
        ResolvedTerm(alpha=1.0, manifest=None, task=term.task) if alpha == 0 else replace(term, alpha=alpha)
    )
    return replace(route, members=(Member(weight=1.0, terms=(other,)),))


def curve(
    adapter: str,
    method: str,
    options: Sequence[Option],
    models: Mapping[str, Mapping[str, float]],
    images: Mapping[str, int],
) -> Curve:
    """One adapter's curve.

    Args:
        adapter: Its label.
        options: One for each alpha, in order.
        models: Accuracies by set of the models that lines go through, by label; this adapter's is left out.
        images: By set, the first one first.
    """
    first, *others = images
    alphas = tuple(float(one.name) for one in options)
    accuracy = {name: tuple(float(one.correct[name].mean()) for one in options) for name in images}
    lines = {}
    for name in others:
        points = {label: (on[first], on[name]) for label, on in models.items() if label != adapter}
        line = fitted(points, images[first], images[name])
        if line is not None:
            lines[name] = line
    choices = tuple(choose(options, rule) for rule in rules_of(alphas))
    return Curve(
        adapter=adapter,
        method=method,
        alphas=alphas,
        accuracy=accuracy,
        nll={name: tuple(float(one.nll[name].mean()) for one in options) for name in images},
        chosen_alpha=float(choices[0].chosen),
        choices=choices,
        effective_robustness={
            name: tuple(
                beyond(line, here, images[first], there)
                for here, there in zip(accuracy[first], accuracy[name], strict=True)
            )
            for name, line in lines.items()
        },
        lines=lines,
    )
