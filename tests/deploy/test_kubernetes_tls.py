"""The variant with TLS and tokens names what the server and the base have."""

from typing import Any

import yaml

from serving.settings import Settings
from tests.deploy.manifests import DEPLOY, read

(SPEC,) = (
    each["spec"]["template"]["spec"] for name, each in read("kubernetes/tls").items() if "Deployment" in name
)
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
