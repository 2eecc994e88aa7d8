"""What ensembles gain over their members, beside as many seeds of one method."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from training.measure.figures import Ensemble
from training.study.report.contents import Data, Figure, Value
from training.study.report.drawing import Width, drawn, label_below, panels, percent_axis
from training.study.report.material import Material, control_of
from training.study.report.theme import colour
from training.study.report.words import percent

_CONTROL = (
    " The control is the strongest of as many adapters of one method that differ in their seed alone: only "
    "what an ensemble has beyond its control is due to different methods."
)


def ensemble_gain(material: Material) -> Figure | str:
    """The figure, or why there is none."""
    ensembles = material.evaluation.ensembles
    if not ensembles:
        return (
            "No ensemble was measured. `corolla evaluate` takes one as --route 'lora, bitfit' (two "
            "adapters or more)."
        )
    shown = {one.name for one in material.shown}
    controlled = any(one.controls and one.set in shown for one in ensembles)
    title = "Ensembles beside their members" + (" and beside seeds of one method" if controlled else "")
    parts = [
        f"On {one.set}, {material.short(one.route)} has {percent(one.mean)}, its best member "
        f"{percent(one.best)}, its worst {percent(one.worst)}."
        for one in ensembles
        if one.set == material.reference.name
    ]
    wide, narrow = drawn(lambda width: _draw(material, width), "ensembles", title, " ".join(parts))
    return Figure(
        title=title,
        caption="One row is one ensemble. The grey bar reaches from the worst member to the best. The blue "
        "line is the 95 % interval of the ensemble's gain over its best member on the same images: where "
        "it begins right of the bar, the gain is more than chance." + (_CONTROL if controlled else ""),
        wide=wide,
        narrow=narrow,
        data=_data(material),
    )


def _routes(material: Material) -> list[str]:
    return list(dict.fromkeys(one.route for one in material.evaluation.ensembles))


def _draw(material: Material, width: Width) -> Canvas:
    routes, sets = _routes(material), [one.name for one in material.shown]
    names = [_name(material, route, width) for route in routes]
    height = 66 + 36 * len(routes)
    columns = 1 if width.narrow else 2
    canvas, all_axes = panels(width, height, len(sets), columns=columns, share_x=False)
    handles: dict[str, object] = {}
    for axes, name in zip(all_axes, sets, strict=True):
        for one in material.evaluation.ensembles:
            if one.set == name:
                handles |= _row(axes, one, routes.index(one.route))
        axes.set_title(name)
        axes.set_yticks(range(len(routes)), names)
        axes.set_ylim(len(routes) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=6)
        percent_axis(axes)
    label_below(canvas, list(handles.values()), list(handles), width)
    return canvas


def _name(material: Material, route: str, width: Width) -> str:
    """The name of an ensemble, cut where it is too long for the left margin."""
    room = 15 if width.narrow else 22
    name = material.short(route)
    return name if len(name) <= room else f"{name[: room - 1]}…"


def _row(axes: Axes, one: Ensemble, y: int) -> dict[str, object]:
    """One ensemble on one set."""
    axes.plot(
        [one.worst, one.best], [y, y], color=colour("grey"), linewidth=5, alpha=0.45, solid_capstyle="butt"
    )
    tick = axes.plot(one.mean_of_members, y, "|", color=colour("ink"), markersize=13)[0]
    best = axes.plot(one.best, y, "o", color=colour("grey"), markersize=6)[0]
    handles: dict[str, object] = {"best member": best, "mean of members": tick}
    control = control_of(one)
    if control is not None:
        mark = axes.plot(control.mean, y, "D", color=colour("orange"), fillstyle="none", markersize=8)[0]
        handles["seeds of one method"] = mark
    low, high = one.best + one.over_best.low, one.best + one.over_best.high
    axes.plot([low, high], [y, y], color=colour("blue"), linewidth=1.4)
    handles["ensemble, mean logits"] = axes.plot(one.mean, y, "*", color=colour("blue"), markersize=13)[0]
    handles["majority vote"] = axes.plot(one.vote, y, "x", color=colour("blue"), markersize=6)[0]
    return handles


def _data(material: Material) -> Data:
    rows = [_numbers(one) for one in material.evaluation.ensembles]
    columns: tuple[str, ...] = (
        "set",
        "ensemble",
        "members",
        "mean_logits",
        "mean_probabilities",
        "vote",
        "best_member",
        "best",
    )
    columns += (
        "worst_member",
        "worst",
        "mean_of_members",
        "gain_over_best",
        "gain_low",
        "gain_high",
        "mcnemar_p",
    )
    columns += ("control_method", "control_members", "control", "over_control", "over_control_low")
    columns += ("over_control_high", "over_control_mcnemar_p")
    return Data(name="ensembles", columns=columns, rows=tuple(rows))


def _numbers(one: Ensemble) -> tuple[Value, ...]:
    control = control_of(one)
    gain = one.over_best
    row: tuple[Value, ...] = (one.set, one.route, len(one.members), one.mean, one.prob, one.vote)
    row += (one.best_member, one.best, one.worst_member, one.worst, one.mean_of_members)
    row += (gain.difference, gain.low, gain.high, gain.mcnemar_p)
    if control is None:
        return row + (None,) * 7
    over = control.over_control
    row += (control.method, control.size, control.mean)
    return (*row, over.difference, over.low, over.high, over.mcnemar_p)
