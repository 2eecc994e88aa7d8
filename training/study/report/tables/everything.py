"""Every route on every set, in one table that can be sorted."""

from training.measure.document import EvaluatedRoute
from training.measure.figures import Result
from training.study.report.contents import Cell, Data, Table
from training.study.report.drawing import magnitude
from training.study.report.material import Material

_COLUMNS = (
    *("route", "set", "method", "parameters", "cost", "accuracy", "interval", "macro F1", "confidence"),
    *("agreement", "NLL", "Brier", "ECE", "ECE before", "ECE after"),
)


def everything(material: Material) -> Table:
    """The table."""
    rows = [
        _row(material, material.routes[result.route], result)
        for one in material.shown
        for result in material.measured(material.routes.values(), one.name)
    ]
    return Table(
        title="All routes on all sets",
        caption="Accuracy in per cent with Wilson's 95 % interval. Cost: models in the forward of an "
        "image, in the mean. NLL: negative log-likelihood in nats; ECE: expected calibration error in per "
        "cent; both at the temperature that is served, and ECE also before (temperature 1) and after one "
        "is fitted." + material.unshown,
        columns=_COLUMNS,
        rows=tuple(rows),
        data=_data(material),
        sortable=True,
    )


def _row(material: Material, route: EvaluatedRoute, result: Result) -> tuple[Cell, ...]:
    after = result.calibrated.ece if result.calibrated else None
    agreement = _agreement(route, result)
    return (
        Cell(text=material.short(route.label)),
        Cell(text=result.set),
        Cell(text=" ".join(filter(None, (route.method, route.setting))) or route.kind),
        Cell(text=magnitude(route.parameters), sort=route.parameters, number=True),
        _number(result.cost, "{:.3g}"),
        _number(100 * result.accuracy, "{:.1f}"),
        Cell(text=f"{100 * result.low:.1f} to {100 * result.high:.1f}", sort=result.low, number=True),
        _number(100 * result.macro_f1, "{:.1f}"),
        _number(100 * result.confidence, "{:.1f}"),
        _number(None if agreement is None else 100 * agreement, "{:.1f}"),
        _number(result.nll, "{:.3f}"),
        _number(result.brier, "{:.3f}"),
        _number(100 * result.ece, "{:.1f}"),
        _number(100 * result.raw.ece, "{:.1f}"),
        _number(None if after is None else 100 * after, "{:.1f}"),
    )


def _agreement(route: EvaluatedRoute, result: Result) -> float | None:
    """None of a single model, which has nobody to agree with."""
    return result.agreement if len(route.members) > 1 else None


def _number(value: float | None, form: str) -> Cell:
    return Cell(text="–" if value is None else form.format(value), sort=value, number=True)


def _data(material: Material) -> Data:
    rows = []
    for result in material.evaluation.results:
        route = material.routes[result.route]
        after = result.calibrated
        rows.append(
            (result.set, route.label, route.text, route.kind, route.method, route.setting, route.seed)
            + (route.head_init, route.parameters, result.cost, route.seconds, route.temperature)
            + (result.accuracy, result.low, result.high, result.macro_f1, result.confidence)
            + (_agreement(route, result),)
            + (result.nll, result.ece, result.brier, result.raw.nll, result.raw.ece, result.raw.brier)
            + ((after.temperature, after.nll, after.ece, after.brier) if after else (None,) * 4)
            + (result.effective_robustness, result.trained_on)
        )
    columns: tuple[str, ...] = (
        "set",
        "label",
        "route",
        "kind",
        "method",
        "setting",
        "seed",
        "head_init",
        "parameters",
        "cost",
    )
    columns += (
        "training_seconds",
        "temperature",
        "accuracy",
        "low",
        "high",
        "macro_f1",
        "confidence",
        "agreement",
    )
    columns += ("nll", "ece", "brier", "raw_nll", "raw_ece", "raw_brier", "fitted_temperature", "fitted_nll")
    columns += ("fitted_ece", "fitted_brier", "effective_robustness", "trained_on")
    return Data(name="everything", columns=columns, rows=tuple(rows))
