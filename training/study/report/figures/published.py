"""The study's published results beside this task's: the order of the methods, and accuracy by size."""

from matplotlib.figure import Figure as Canvas

from training.study.report.contents import Data, Figure, Value
from training.study.report.correlation import FEWEST, rank_correlation
from training.study.report.drawing import Width, drawn, label_below, panels, percent_axis, size_axis
from training.study.report.families import FAMILIES, OTHER, family
from training.study.report.material import Material
from training.study.report.published_results import GROUPS, MANY_SHOT, SOURCE, by_size, low_shot
from training.study.report.theme import colour
from training.study.report.words import ALPHA, decimal, p_value, percent


def own_accuracy(material: Material) -> dict[str, float]:
    """The mean accuracy of each method's adapters on the reference set."""
    by_method: dict[str, list[float]] = {}
    for route in material.adapters:
        result = material.result(route.label)
        if result is not None and route.method is not None:
            by_method.setdefault(route.method, []).append(result.accuracy)
    return {method: sum(values) / len(values) for method, values in by_method.items()}


def beside_the_study(material: Material) -> Figure | str:
    """This task's accuracies by method beside the means of VTAB-1K's groups, or why there are none."""
    own = own_accuracy(material)
    shared = [method for method in own if method in low_shot()[GROUPS[0]]]
    if len(shared) < 2:
        return (
            "Fewer than two methods of this task are in the study's tables, so that there is no order to "
            "compare."
        )
    shared.sort(key=lambda method: own[method])
    title = "This task beside the study's 19 tasks with 1,000 images each"
    alt = " ".join(order_in_words(material))
    wide, narrow = drawn(lambda width: _dots(material, own, shared, width), "beside", title, alt)
    rows: list[tuple[Value, ...]] = [
        (method, own[method], *(low_shot()[group][method] for group in GROUPS)) for method in reversed(shared)
    ]
    return Figure(
        title=title,
        caption="Methods from the least to the most accurate on this task. The study: VTAB-1K, ViT-B/16 "
        f"trained on ImageNet-21k, mean of the tasks of each group, last epoch. Source: {SOURCE}.",
        wide=wide,
        narrow=narrow,
        data=Data(
            name="beside-the-study", columns=("method", material.reference.name, *GROUPS), rows=tuple(rows)
        ),
    )


def order_in_words(material: Material) -> list[str]:
    """Whether the methods' order here is that of each group of the study, with the test."""
    own = own_accuracy(material)
    if len(set(own.values())) == 1:
        return [f"All {len(own)} methods are equally accurate here, so they have no order."]
    said = []
    for group in GROUPS:
        shared = [method for method in own if method in low_shot()[group]]
        if len(shared) < FEWEST:
            return [
                f"{len(shared)} methods are too few to compare their order with the study's: "
                "fewer than five may have the same order by chance."
            ]
        found = rank_correlation([own[m] for m in shared], [low_shot()[group][m] for m in shared])
        like = "like the study's" if found.p < ALPHA and found.rank > 0 else "not measurably the study's"
        said.append(
            f"The order of {len(shared)} methods here is {like} on {group} tasks (Spearman's rank "
            f"correlation {decimal(found.rank)}, {p_value(found.p)})."
        )
    return said


def _dots(material: Material, own: dict[str, float], shared: list[str], width: Width) -> Canvas:
    columns = 2 if width.narrow else 4
    rows = 24 * len(shared) + 60
    canvas, all_axes = panels(width, rows, 1 + len(GROUPS), columns=columns, share_x=False)
    groups = {material.reference.name: own} | {group: low_shot()[group] for group in GROUPS}
    for number, (axes, (name, values)) in enumerate(zip(all_axes, groups.items(), strict=True)):
        for place, method in enumerate(shared):
            kind = family(method)
            axes.plot(values[method], place, kind.marker, color=colour(kind.colour), markersize=7)
        axes.set_title(f"{name} (yours)" if number == 0 else name, fontsize=width.text - 1)
        axes.set_yticks(range(len(shared)), shared)
        axes.margins(x=0.12)
        percent_axis(axes)
        axes.locator_params(axis="x", nbins=3)
    return canvas


def sizes_in_the_study() -> Figure:
    """Accuracy against trained parameters in the study's few- and many-shot settings."""
    title = "The study: accuracy against trained parameters, with few and with many images"
    parts = []
    for name, heading in MANY_SHOT.items():
        best = max(by_size()[name], key=lambda one: one.accuracy)
        parts.append(f"{heading}: best {best.method} with {percent(best.accuracy)}.")
    wide, narrow = drawn(_sizes, "published-sizes", title, " ".join(parts))
    rows = [
        (name, one.method, one.parameters, one.accuracy) for name, ones in by_size().items() for one in ones
    ]
    return Figure(
        title=title,
        caption="With few images and classes near those of pre-training (CIFAR-100) small methods suffice; "
        "with many images, or far from it (RESISC45, CLEVR), larger ones gain. ViT-B/16, last epoch. "
        f"Source: {SOURCE}.",
        wide=wide,
        narrow=narrow,
        data=Data(
            name="published-sizes", columns=("setting", "method", "parameters", "accuracy"), rows=tuple(rows)
        ),
    )


def _sizes(width: Width) -> Canvas:
    columns = 1 if width.narrow else 3
    canvas, all_axes = panels(width, 230, len(MANY_SHOT), columns=columns, share_y=False)
    methods = [one.method for ones in by_size().values() for one in ones]
    for axes, (name, heading) in zip(all_axes, MANY_SHOT.items(), strict=True):
        for one in by_size()[name]:
            kind = family(one.method)
            axes.plot(
                one.parameters, one.accuracy, kind.marker, color=colour(kind.colour), markersize=5, alpha=0.85
            )
        axes.set_title(heading, fontsize=width.text - 1)
        size_axis(axes, 1000)
        axes.set_xticks([0, 1e4, 1e6, 1e8])
        axes.tick_params(labelbottom=True)
        percent_axis(axes, "y")
    shown = [one for one in (*FAMILIES, OTHER) if any(family(method) == one for method in methods)]
    handles = [
        all_axes[0].plot([], [], one.marker, color=colour(one.colour), linestyle="none")[0] for one in shown
    ]
    label_below(canvas, handles, [one.title for one in shown], width)
    return canvas
