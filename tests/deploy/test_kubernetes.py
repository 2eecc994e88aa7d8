"""deploy/kubernetes and deploy/kserve fit their schemas, each other and the server; no cluster runs here."""

import copy
import re
import shutil
import subprocess
from typing import Any

import click
import jsonschema
import pytest
import yaml
from kubernetes_validate import ValidationError

from corolla.command import corolla
from serving.metrics.definitions import DEFINITIONS
from serving.settings import Settings
from tests.deploy.manifests import DEPLOY, Manifest, check, of_text, pod, read

BASE, KSERVE = read("kubernetes/base"), read("kserve")
FIELDS = Settings.model_fields
SPEC: dict[str, Any] = BASE["Deployment corolla"]["spec"]["template"]["spec"]
(SERVER,) = SPEC["containers"]
RUNTIME: dict[str, Any] = KSERVE["ServingRuntime corolla"]["spec"]
KUBECTL = shutil.which("kubectl")


def _asks_http(name: str, value: Any) -> bool:
    return name.endswith("Probe") and "httpGet" in value


def variables(container: Manifest) -> set[str]:
    return {entry["name"] for entry in container.get("env", [])}


@pytest.mark.parametrize("manifest", [*BASE.values(), *KSERVE.values()], ids=[*BASE, *KSERVE])
def test_it_fits_the_schema_of_its_kind(manifest: Manifest) -> None:
    check(manifest)


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    wrong: Any = copy.deepcopy(BASE["Deployment corolla"])
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(ValidationError, match="livenessProb"):
        check(wrong)

    monitor: Any = copy.deepcopy(BASE["ServiceMonitor corolla"])
    monitor["spec"]["endpoints"][0]["ports"] = 9095
    with pytest.raises(jsonschema.ValidationError, match="ports"):
        check(monitor)


def test_the_containers_of_the_runtime_fit_the_schema_of_pods() -> None:
    check(pod(RUNTIME))


def test_kustomize_lists_every_file_once() -> None:
    folder = DEPLOY / "kubernetes" / "base"
    listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == sorted(
        file.name for file in folder.glob("*.yaml") if file.stem != "kustomization"
    )


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed")
@pytest.mark.parametrize("overlay", ["base", "tls"])
def test_what_kustomize_makes_fits_the_schemas(overlay: str) -> None:
    command = [str(KUBECTL), "kustomize", str(DEPLOY / "kubernetes" / overlay)]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    manifests = {each["kind"]: each for each in of_text(made)}
    for manifest in manifests.values():
        check(manifest)

    (server,) = manifests["Deployment"]["spec"]["template"]["spec"]["containers"]
    over_tls = "COROLLA_TLS_KEY" in variables(server)
    assert over_tls == (overlay == "tls")
    assert ("grpc" in server["readinessProbe"]) != over_tls, "probes over gRPC speak no TLS"
    schemes = {
        probe["httpGet"].get("scheme", "HTTP") for name, probe in server.items() if _asks_http(name, probe)
    }
    (scrape,) = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert schemes == {scrape.get("scheme", "http").upper()} == {"HTTPS" if over_tls else "HTTP"}
    assert all(len(server[probe].keys() & {"grpc", "httpGet"}) == 1 for probe in server if "Probe" in probe)


@pytest.mark.parametrize("container", [SERVER, RUNTIME["containers"][0]], ids=["kubernetes", "kserve"])
def test_the_server_has_the_settings_that_are_given_to_it(container: Manifest) -> None:
    known = {f"COROLLA_{name.upper()}" for name in FIELDS}
    given = variables(container) | set(BASE["ConfigMap corolla"]["data"])
    assert given - known == set()

    name, *arguments = container["args"]
    command = corolla.get_command(click.Context(corolla), name)
    assert command is not None
    command.make_context(name, arguments)


@pytest.mark.parametrize("container", [SERVER, RUNTIME["containers"][0]], ids=["kubernetes", "kserve"])
def test_ports_and_probes_are_those_of_the_server(container: Manifest) -> None:
    ports = {port["containerPort"] for port in container["ports"]}
    assert FIELDS["port"].default in ports
    assert container["readinessProbe"]["grpc"]["port"] == FIELDS["port"].default
    alive = container["livenessProbe"]["httpGet"]
    assert alive["path"] == "/healthz", "a store or a device that hangs must not restart the process"
    assert alive["port"] in ("metrics", FIELDS["metrics_port"].default)


@pytest.mark.parametrize(
    ("container", "volumes"),
    [(SERVER, SPEC["volumes"]), (RUNTIME["containers"][0], RUNTIME["volumes"])],
    ids=["kubernetes", "kserve"],
)
def test_only_volumes_can_be_written_and_nobody_is_root(container: Manifest, volumes: list[Any]) -> None:
    context = {**SPEC["securityContext"], **container["securityContext"]}
    assert context["runAsNonRoot"]
    assert context["readOnlyRootFilesystem"]
    assert not context["allowPrivilegeEscalation"]
    assert context["capabilities"]["drop"] == ["ALL"]
    dockerfile = (DEPLOY.parent / "Dockerfile").read_text()
    assert f"USER {context['runAsUser']}:" in dockerfile
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in volumes}
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_a_stop_has_time_to_drain() -> None:
    pause = int(SERVER["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert SPEC["terminationGracePeriodSeconds"] > pause + FIELDS["drain_s"].default


def test_everything_selects_the_pods_of_the_deployment() -> None:
    labels = BASE["Deployment corolla"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        BASE["Deployment corolla"]["spec"]["selector"]["matchLabels"],
        BASE["PodDisruptionBudget corolla"]["spec"]["selector"]["matchLabels"],
        BASE["NetworkPolicy corolla"]["spec"]["podSelector"]["matchLabels"],
        *(each["spec"]["selector"] for name, each in BASE.items() if name.startswith("Service ")),
    ]
    assert all(selector == labels for selector in selectors)


def test_prometheus_scrapes_each_replica_once() -> None:
    wanted = BASE["ServiceMonitor corolla"]["spec"]["selector"]["matchLabels"].items()
    services = [each for name, each in BASE.items() if name.startswith("Service ")]
    scraped = [each for each in services if wanted <= each["metadata"]["labels"].items()]
    assert [each["metadata"]["name"] for each in scraped] == ["corolla"], "the job of the rules"
    assert "metrics" in {port["name"] for port in scraped[0]["spec"]["ports"]}


def test_the_autoscaler_asks_for_what_the_adapter_makes_of_what_servers_count() -> None:
    rules = yaml.safe_load((DEPLOY / "kubernetes" / "adapter-values.yaml").read_text())["rules"]["custom"]
    asked = {
        metric["pods"]["metric"]["name"]
        for metric in BASE["HorizontalPodAutoscaler corolla"]["spec"]["metrics"]
    }
    assert asked == {rule["name"]["as"] for rule in rules}
    read_from = {re.sub(r"_(sum|count)$", "", rule["seriesQuery"].split("{")[0]) for rule in rules}
    assert read_from <= {definition.name for definition in DEFINITIONS}
    assert all({"namespace", "pod"} == rule["resources"]["overrides"].keys() for rule in rules)


def test_the_service_of_kserve_uses_the_runtime() -> None:
    model = KSERVE["InferenceService corolla"]["spec"]["predictor"]["model"]
    assert model["runtime"] == KSERVE["ServingRuntime corolla"]["metadata"]["name"]
    assert model["modelFormat"]["name"] in {known["name"] for known in RUNTIME["supportedModelFormats"]}
    assert model["protocolVersion"] in RUNTIME["protocolVersions"]
