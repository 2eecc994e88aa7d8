"""The alerts of deploy/prometheus/rules.yml as rows of docs/operations.md."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

BEGIN, END = "<!-- alerts: made by `make docs` -->", "<!-- end of alerts -->"
RULES = Path(__file__).resolve().parent.parent / "deploy" / "prometheus" / "rules.yml"


def with_rows(page: str, rules: Path = RULES) -> str:
    """The page with its table of alerts as the rules have them now.

    Raises:
        ValueError: The page has no place for the table.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/operations.md needs the lines {BEGIN} and {END}")
    lines = ["| alert | severity | lasts | says | what to do |", "|---|---|---|---|---|", *_rows(rules)]
    return "\n".join([head + BEGIN, "", *lines, "", END + tail])


def alerts(rules: Path = RULES) -> list[dict[str, Any]]:
    """All alerts, in the order of the file."""
    groups = yaml.safe_load(rules.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def _rows(rules: Path) -> Iterator[str]:
    for alert in alerts(rules):
        name, severity, lasts = alert["alert"], alert["labels"]["severity"], alert.get("for", "")
        said = (alert["annotations"][key].replace("|", "\\|") for key in ("summary", "action"))
        yield f"| `{name}` | {severity} | {lasts} | {' | '.join(said)} |"
