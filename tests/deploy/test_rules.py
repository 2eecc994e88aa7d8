"""What the rules name exists; tests/docs/test_queries.py evaluates them."""

import re

import click
import pytest
import yaml

from corolla.command import corolla
from deploy.grafana.dashboard import ROWS
from docs import alerts
from serving.metrics.definitions import DEFINITIONS
from serving.monitor.gauges import DEFINITIONS as EVALUATOR

RULES = [rule for group in yaml.safe_load(alerts.RULES.read_text())["groups"] for rule in group["rules"]]
SAID = [text for alert in alerts.alerts() for text in alert["annotations"].values()]


def test_they_read_metrics_that_servers_and_evaluators_have() -> None:
    named = {name for rule in RULES for name in re.findall(r"(?<![\w:])corolla_\w+(?![\w:])", rule["expr"])}
    scraped = {definition.name for definition in (*DEFINITIONS, *EVALUATOR)}
    scraped |= {f"{name}_{part}" for name in scraped for part in ("bucket", "sum", "count")}
    assert len(named) > 20
    assert named - scraped == set()


def test_they_read_what_others_record() -> None:
    named = {name for rule in RULES for name in re.findall(r"\w+:corolla_\w+:\w+", rule["expr"])}
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert named - recorded == set()


def test_only_alerts_on_labels_page() -> None:
    pages = {alert["alert"] for alert in alerts.alerts() if alert["labels"]["severity"] == "page"}
    assert pages == {"CorollaAccuracyLow", "CorollaAccuracyAlarm"}
    assert {alert["labels"]["severity"] for alert in alerts.alerts()} == {"page", "ticket"}


@pytest.mark.parametrize(
    "line", sorted({line for text in SAID for line in re.findall(r"`corolla (.*?)`", text)})
)
def test_an_alert_names_commands_that_exist(line: str) -> None:
    command: click.Command = corolla
    words = iter(line.split())
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), next(words))
        assert found is not None, line
        command = found
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= flags


def test_an_alert_names_rows_of_the_dashboard() -> None:
    named = {row for text in SAID for row in re.findall(r"\(row (\w+)\)", text)}
    assert named
    assert named <= {row.title for row in ROWS}


def test_a_page_without_a_place_for_the_alerts_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        alerts.with_rows("# Operations")
