"""The kinds of panels that the rows are made of, and how a query selects what the dashboard shows.

Grafana replaces `$job`, `$route`, `$domain` and `$window` in a query by what is chosen at its top.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from grafana_foundation_sdk.builders import (
    barchart,
    common,
    heatmap,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
SHARE = "percentunit"
HEIGHT = 8
TIMES = ("Time", "Time 1", "Time 2")
"""The columns with the time of a table, and of two that are joined."""
_CURVES, _TABLE, _HEATMAP = PromQueryFormat.TIME_SERIES, PromQueryFormat.TABLE, PromQueryFormat.HEATMAP
_COLORED = DynamicConfigValue("custom.cellOptions", {"type": "color-background", "mode": "basic"})
_DASHED = DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [6, 6]})

Kind = TypeVar(
    "Kind", barchart.Panel, heatmap.Panel, stat.Panel, statetimeline.Panel, table.Panel, timeseries.Panel
)


def of_route(metric: str, *matchers: str) -> str:
    """The series of a server's metric, or of one recorded from it, of the chosen route."""
    return _series(metric, 'job="$job"', 'route="$route"', *matchers)


def of_place(metric: str, *matchers: str) -> str:
    """Those of the chosen route in the chosen domains."""
    return of_route(metric, 'domain=~"$domain"', *matchers)


def of_evaluator(metric: str, *matchers: str) -> str:
    """Those of the evaluator's metric, which Prometheus scrapes as another job."""
    return _series(metric, 'route="$route"', 'domain=~"$domain"', *matchers)


def rate(metric: str, *matchers: str, by: str) -> str:
    """How much a counter grows in a second, as `increase`."""
    return f"sum by ({by}) (rate({of_place(metric, *matchers)}[$window]))"


def increase(metric: str, *matchers: str, by: str, of: str = "place", window: str = "$window") -> str:
    """The increase of a counter in the chosen window, summed over replicas and all labels but `by`."""
    series = of_place(metric, *matchers) if of == "place" else of_route(metric, *matchers)
    return f"sum by ({by}) (increase({series}[{window}]))"


Panels = barchart.Panel | heatmap.Panel | stat.Panel | statetimeline.Panel | table.Panel | timeseries.Panel


@dataclass(frozen=True)
class Row:
    """One row of the dashboard, with its panels from left to right."""

    title: str
    panels: tuple[Panels, ...]


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        legend: What its series are called; Grafana fills in labels as `{{label}}`.
        exemplars: Shows the predictions of which Prometheus has an id.
    """

    promql: str
    legend: str = ""
    exemplars: bool = False

    def target(self, letter: str, form: PromQueryFormat = _CURVES) -> prometheus.Dataquery:
        """As Grafana has it; tables have the newest values, everything else has those of the shown time."""
        target = (
            prometheus.Dataquery().ref_id(letter).expr(self.promql).format(form).legend_format(self.legend)
        )
        return target.instant() if form == _TABLE else target.range().exemplar(self.exemplars)


def lines(
    title: str,
    about: str,
    *queries: Query,
    unit: str = SHARE,
    width: int = 8,
    stacked: bool = False,
) -> timeseries.Panel:
    """Curves over time; those whose legends end in "low", "high" or "reference" are dashed.

    Args:
        stacked: As shares of their sum.
    """
    panel = _placed(timeseries.Panel(), title, about, width, queries).unit(unit).line_width(1)
    panel = panel.show_points(options.VisibilityMode.NEVER).legend(_legend()).tooltip(_tooltip())
    if unit == SHARE and not stacked:
        panel = panel.axis_soft_max(1)
    if stacked:
        panel = panel.fill_opacity(40).stacking(common.StackingConfig().mode(options.StackingMode.PERCENT))
    return panel.override_by_regexp("/(low|high|reference)$/", [_DASHED])


def heat(
    title: str, about: str, metric: str, *, unit: str, width: int = 8, exemplars: bool = False
) -> heatmap.Panel:
    """A histogram over time: how many images fell into each bucket between two points of the panel."""
    query = Query(increase(f"{metric}_bucket", by="le", window="$__rate_interval"), "{{le}}", exemplars)
    panel = heatmap.Panel().with_target(query.target("A", _HEATMAP))
    panel = _placed(panel, title, about, width, ()).unit("short")
    return (
        panel.show_tooltip()
        .color(
            heatmap.HeatmapColorOptions()
            .mode(HeatmapColorMode.SCHEME)
            .scheme("Blues")
            .steps(64)
            .exponent(0.5)
        )
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(options.AxisPlacement.LEFT))
    )


def rows(
    title: str,
    about: str,
    *queries: Query,
    unit: str = "none",
    width: int = 8,
    steps: tuple[Threshold, ...] = (),
    transformations: tuple[DataTransformerConfig, ...] = (),
) -> table.Panel:
    """A table of the newest values.

    Args:
        steps: Colours of cells, by value.
    """
    panel = _placed(table.Panel(), title, about, width, queries, _TABLE).unit(unit).show_header(True)
    for transformation in transformations:
        panel = panel.with_transformation(transformation)
    if steps:
        panel = panel.thresholds(_thresholds(steps)).override_by_field_type("number", [_COLORED])
    return panel


def bars(title: str, about: str, *queries: Query, by: str, width: int = 8) -> barchart.Panel:
    """Bars of the newest values, side by side for each value of a label."""
    panel = _placed(barchart.Panel(), title, about, width, queries, _TABLE).unit(SHARE)
    names = {f"Value #{letter}": query.legend for letter, query in zip("ABCD", queries, strict=False)}
    panel = panel.with_transformation(joined(by)).with_transformation(renamed(names, without=TIMES))
    return panel.x_field(by).min(0).max(1).legend(_legend()).tooltip(_tooltip())


def numbers(
    title: str, about: str, *queries: Query, unit: str, steps: tuple[Threshold, ...], width: int = 4
) -> stat.Panel:
    """The newest values, large and coloured."""
    panel = _placed(stat.Panel(), title, about, width, queries).unit(unit).thresholds(_thresholds(steps))
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.color_mode(options.BigValueColorMode.BACKGROUND).graph_mode(options.BigValueGraphMode.NONE)


def states(
    title: str, about: str, *queries: Query, steps: tuple[Threshold, ...], width: int = 8
) -> statetimeline.Panel:
    """When something was true."""
    panel = _placed(statetimeline.Panel(), title, about, width, queries).thresholds(_thresholds(steps))
    panel = panel.color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
    return panel.show_value(options.VisibilityMode.NEVER).merge_values(True).legend(_legend())


def steps(first: str, *others: tuple[float, str]) -> tuple[Threshold, ...]:
    """A colour, and those that replace it from a value on."""
    return (Threshold(None, first), *(Threshold(value, color) for value, color in others))


def joined(by: str) -> DataTransformerConfig:
    """The tables of all queries side by side, row by row of a label."""
    return DataTransformerConfig("joinByField", options={"byField": by, "mode": "outer"})


def renamed(names: Mapping[str, str], *, without: tuple[str, ...] = ()) -> DataTransformerConfig:
    """Columns under other names, some left out."""
    return DataTransformerConfig(
        "organize", options={"renameByName": dict(names), "excludeByName": dict.fromkeys(without, True)}
    )


def matrix(row: str, column: str) -> DataTransformerConfig:
    """A column for each value of one label, a row for each of another."""
    return DataTransformerConfig(
        "groupingToMatrix", options={"rowField": row, "columnField": column, "valueField": "Value"}
    )


def _series(metric: str, *matchers: str) -> str:
    return f"{metric}{{{', '.join(matchers)}}}"


def _placed(
    panel: Kind,
    title: str,
    about: str,
    width: int,
    queries: tuple[Query, ...],
    form: PromQueryFormat = _CURVES,
) -> Kind:
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        panel = panel.with_target(query.target(letter, form))
    return panel.title(title).description(about).datasource(SOURCE).height(HEIGHT).span(width)


def _legend() -> common.VizLegendOptions:
    shown = common.VizLegendOptions().show_legend(True).display_mode(options.LegendDisplayMode.LIST)
    return shown.placement(options.LegendPlacement.BOTTOM)


def _tooltip() -> common.VizTooltipOptions:
    return common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI)


def _thresholds(steps: tuple[Threshold, ...]) -> ThresholdsConfig:
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(list(steps))
