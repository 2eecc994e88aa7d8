"""The dashboard "Corolla: is it still right?", and its JSON, which `make docs` writes beside this file."""

from pathlib import Path

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from deploy.grafana.panels import SOURCE, of_route
from deploy.grafana.rows import confidence, ensemble, estimates, health, inputs, labels

FILE = Path(__file__).with_name("dashboard.json")
ROWS = (labels.ROW, estimates.ROW, confidence.ROW, ensemble.ROW, inputs.ROW, health.ROW)
WINDOWS = ("1h", "6h", "1d", "7d")


def text() -> str:
    """What dashboard.json says."""
    page = (
        build.Dashboard("Corolla: is it still right?")
        .uid("corolla")
        .description("The answers of one route: by labels, by estimates without labels, and by what arrives.")
        .tags(["corolla"])
        .time("now-24h", "now")
        .refresh("1m")
        .tooltip(DashboardCursorSync.CROSSHAIR)
    )
    for variable in _variables():
        page = page.with_variable(variable)
    for row in ROWS:
        page = page.with_row(build.Row(row.title))
        for panel in row.panels:
            page = page.with_panel(panel)
    built = page.build()
    for number, placed in enumerate(built.panels or (), start=1):
        placed.id_val = number
    return JSONEncoder(indent=2, sort_keys=True).encode(built) + "\n"


def _variables() -> list[build.DatasourceVariable | build.QueryVariable | build.CustomVariable]:
    return [
        build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        _query("job", "Job", "label_values(corolla_predictions_total, job)"),
        _query("route", "Route", 'label_values(corolla_predictions_total{job="$job"}, route)'),
        _query("domain", "Domain", f"label_values({of_route('corolla_predictions_total')}, domain)")
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all")),
        build.CustomVariable("window")
        .label("Window")
        .values(",".join(WINDOWS))
        .options([VariableOption(selected=w == WINDOWS[0], text=w, value=w) for w in WINDOWS])
        .current(VariableOption(selected=True, text=WINDOWS[0], value=WINDOWS[0])),
    ]


def _query(name: str, label: str, query: str) -> build.QueryVariable:
    """A variable whose values are those of a label."""
    variable = build.QueryVariable(name).label(label).query(query).datasource(SOURCE)
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)
