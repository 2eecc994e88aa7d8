"""The variant with TLS and tokens names what the server and the base have."""

from typing import Any

import yaml

from serving.settings import Settings
from tests.deploy.manifests import DEPLOY, check, read

OVERLAY: Any = read("kubernetes/tls")
SPEC = OVERLAY["Deployment corolla"]["spec"]["template"]["spec"]
(SERVER,) = SPEC["containers"]


def test_its_settings_are_the_servers() -> None:
    known = {f"COROLLA_{name.upper()}" for name in Settings.model_fields}
    assert {entry["name"] for entry in SERVER["env"]} - known == set()


def test_files_that_settings_name_are_mounted_and_others_may_not_write_them() -> None:
    mounted = {mount["mountPath"] for mount in SERVER["volumeMounts"]}
    files = {entry["value"].rpartition("/")[0] for entry in SERVER["env"] if entry["value"].startswith("/")}
    assert files == mounted
    assert all(volume["secret"]["defaultMode"] == 0o440 for volume in SPEC["volumes"])


def test_it_changes_the_container_of_the_base() -> None:
    base: Any = read("kubernetes/base")["Deployment corolla"]
    names = [container["name"] for container in base["spec"]["template"]["spec"]["containers"]]
    assert [SERVER["name"]] == names
    overlay = yaml.safe_load((DEPLOY / "kubernetes" / "tls" / "kustomization.yaml").read_text())
    assert overlay["resources"] == ["../base"]
    assert sorted(patch["path"] for patch in overlay["patches"]) == ["deployment.yaml", "monitor.yaml"]


def test_metrics_and_all_probes_are_asked_by_https() -> None:
    assert {"name": "COROLLA_METRICS_TLS", "value": "true"} in SERVER["env"]
    probes = [SERVER[name]["httpGet"]["scheme"] for name in SERVER if name.endswith("Probe")]
    assert probes == ["HTTPS"] * 3


def test_scrapes_differ_from_those_of_the_base_by_tls_alone() -> None:
    base: Any = read("kubernetes/base")["ServiceMonitor corolla"]
    (ours,), (plain,) = (each["spec"]["endpoints"] for each in (OVERLAY["ServiceMonitor corolla"], base))
    assert {name: ours[name] for name in ours if name not in ("scheme", "tlsConfig")} == plain
    assert ours["scheme"] == "https"
    secret = ours["tlsConfig"]["ca"]["secret"]["name"]
    assert secret in {volume["secret"]["secretName"] for volume in SPEC["volumes"]}
    check({**base, "spec": {**base["spec"], "endpoints": [ours]}})
