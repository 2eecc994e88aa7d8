"""deploy/compose.yml fits its specification and what it starts; no Docker runs here."""

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner

from corolla.command import corolla
from corolla.commands.monitor import PORT
from serving.settings import Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yml"
SERVICES: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]


def test_it_fits_the_specification_of_compose() -> None:
    checked = CliRunner().invoke(check_jsonschema, ["--builtin-schema", "vendor.compose-spec", str(FILE)])
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize("service", ["server", "evaluator"])
def test_the_commands_of_our_image_can_be_typed(service: str) -> None:
    name, *arguments = SERVICES[service]["command"]
    command = corolla.get_command(click.Context(corolla), name)
    assert command is not None
    command.make_context(name, arguments)


def test_the_server_has_the_settings_that_are_given_to_it() -> None:
    known = {f"COROLLA_{name.upper()}" for name in Settings.model_fields}
    assert set(SERVICES["server"]["environment"]) <= known


def test_what_is_mounted_from_here_is_here() -> None:
    mounts = [
        mount for service in SERVICES.values() for mount in service["volumes"] if mount.startswith("./")
    ]
    assert len(mounts) >= 3
    assert [mount for mount in mounts if not (FILE.parent / mount.split(":")[0]).exists()] == []


def test_prometheus_scrapes_the_ports_on_which_metrics_are_served() -> None:
    config = yaml.safe_load((FILE.parent / "prometheus" / "compose.yml").read_text())
    server, evaluator = config["scrape_configs"]
    assert server["dns_sd_configs"][0]["port"] == Settings.model_fields["metrics_port"].default
    assert evaluator["static_configs"][0]["targets"] == [f"evaluator:{PORT}"]


def test_grafana_finds_its_prometheus_and_the_dashboard() -> None:
    provisioning = FILE.parent / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "corolla.yml").read_text())["providers"]
    grafana = SERVICES["grafana"]

    assert source["url"] == "${PROMETHEUS_URL}"
    assert grafana["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"
    inside = {mount.split(":")[1] for mount in grafana["volumes"]}
    assert f"{provider['options']['path']}/dashboard.json" in inside
    assert "/etc/grafana/provisioning" in inside


def test_the_image_is_built_from_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    context = set(re.findall(r"^!(\w+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert packages - context == set()
