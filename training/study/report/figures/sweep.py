"""The trials of the sweeps that chose the adapters' settings, by learning rate."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from training.study.report.contents import Data, Figure
from training.study.report.drawing import Width, drawn, label_below, panels, percent_axis
from training.study.report.families import family
from training.study.report.material import Material
from training.study.report.theme import colour
from training.study.report.words import counted, percent

Trial = Mapping[str, Any]
_MARKS = {"complete": "o", "pruned": "x", "failed": "v"}


def sweep_history(material: Material) -> Figure | str:
    """The figure, or why there is none."""
    sweeps = _sweeps(material)
    if not sweeps:
        return (
            "No adapter of this task was chosen by a sweep. `corolla sweep` tunes methods and keeps "
            "every trial."
        )
    title = "Trials of the sweeps, by learning rate"
    alt = " ".join(_in_words(name, trials) for name, trials in sweeps.items())
    wide, narrow = drawn(lambda width: _draw(sweeps, width), "sweep", title, alt)
    return Figure(
        title=title,
        caption="Validation accuracy after the last epoch, on images that were not trained on. A cross is "
        "a trial that was stopped early at what it had reached, a triangle at the lower edge one that "
        "failed; the ring is the trial whose settings the adapter has.",
        wide=wide,
        narrow=narrow,
        data=_data(sweeps),
    )


def _sweeps(material: Material) -> dict[str, list[Trial]]:
    """The trials of each adapter that has some, the chosen one with `chosen`."""
    sweeps: dict[str, list[Trial]] = {}
    seen = set()
    for label, manifest in material.manifests.items():
        record = manifest.training.get("sweep")
        trials = record.get("trials") if isinstance(record, dict) else None
        listed = trials if isinstance(trials, list) else []
        own = [t for t in listed if isinstance(t, dict) and t.get("method") == manifest.method]
        key = (manifest.method, str(record))
        if own and key not in seen and isinstance(record, dict):
            seen.add(key)
            chosen = record.get("chosen")  # counted from 0, `trial` from 1
            sweeps[material.short(label)] = [
                {**trial, "chosen": isinstance(chosen, int) and trial.get("trial") == chosen + 1}
                for trial in own
            ]
    return sweeps


def _rate(trial: Trial) -> float | None:
    recipe = trial.get("recipe")
    rate = recipe.get("learning_rate", recipe.get("lr")) if isinstance(recipe, dict) else None
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def _value(trial: Trial) -> float | None:
    """What a trial reached; of one that was stopped, its last epoch."""
    value, values = trial.get("value"), trial.get("values")
    if value is None and isinstance(values, Mapping):
        value = list(values.values())[-1] if values else None
    elif value is None and isinstance(values, Sequence) and values:
        value = values[-1]
    return float(value) if isinstance(value, int | float) else None


def _in_words(name: str, trials: Sequence[Trial]) -> str:
    done = [value for trial in trials if (value := _value(trial)) is not None]
    failed = sum(trial.get("state") == "failed" for trial in trials)
    best = f", the best {percent(max(done))}" if done else ""
    return f"{name}: {counted(len(trials), 'trial')}{best}, {failed} failed."


def _draw(sweeps: Mapping[str, Sequence[Trial]], width: Width) -> Canvas:
    columns = 1 if width.narrow else 3
    canvas, all_axes = panels(width, 200, len(sweeps), columns=columns)
    floor = min(
        (v for trials in sweeps.values() for t in trials if (v := _value(t)) is not None), default=0.0
    )
    for axes, (name, trials) in zip(all_axes, sweeps.items(), strict=True):
        for trial in trials:
            _mark(axes, trial, floor)
        axes.set_title(name)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.tick_params(labelbottom=True)
        percent_axis(axes, "y")
    for axes in all_axes[-columns:]:
        axes.set_xlabel("learning rate")
    canvas.supylabel("validation accuracy", fontsize=width.text)
    ink = colour("ink")
    handles = [all_axes[0].plot([], [], mark, color=ink, linestyle="none")[0] for mark in _MARKS.values()]
    label_below(canvas, handles, list(_MARKS), width)
    return canvas


def _mark(axes: Axes, trial: Trial, floor: float) -> None:
    rate, value = _rate(trial), _value(trial)
    if rate is None:
        return
    state = str(trial.get("state"))
    tint = colour(family(str(trial.get("method"))).colour if state == "complete" else "muted")
    y = floor if value is None else value
    axes.plot(rate, y, _MARKS.get(state, "o"), color=tint, markersize=6, alpha=0.85)
    if trial.get("chosen"):
        axes.plot(rate, y, "o", color=colour("ink"), fillstyle="none", markersize=12)


def _data(sweeps: Mapping[str, Sequence[Trial]]) -> Data:
    rows = []
    for name, trials in sweeps.items():
        for trial in trials:
            recipe = trial.get("recipe")
            decay = recipe.get("weight_decay", recipe.get("wd")) if isinstance(recipe, dict) else None
            config = "; ".join(f"{key}={value}" for key, value in (trial.get("config") or {}).items())
            place = (name, str(trial.get("method")), config, _rate(trial), decay)
            rows.append(
                (
                    *place,
                    trial.get("state"),
                    trial.get("reason"),
                    _value(trial),
                    trial.get("seconds"),
                    trial["chosen"],
                )
            )
    columns = (
        "adapter",
        "method",
        "settings",
        "lr",
        "weight_decay",
        "state",
        "reason",
        "validation_accuracy",
    )
    return Data(name="sweep", columns=(*columns, "seconds", "chosen"), rows=tuple(rows))
