"""Manifests of Kubernetes, read and checked without a cluster or a network."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from kubernetes_validate import validate

DEPLOY = Path(__file__).parents[2] / "deploy"
VERSION = "1.37"
"""Of Kubernetes, whose schemas are strict: a field that it does not know is refused."""

Manifest = Mapping[str, Any]

_TEXT, _BOOL, _LABELS = {"type": "string"}, {"type": "boolean"}, {"additionalProperties": {"type": "string"}}


def _closed(required: str = "", **properties: object) -> dict[str, object]:
    return {"properties": properties, "required": required.split(), "additionalProperties": False}


def _list(item: object) -> dict[str, object]:
    return {"type": "array", "items": item, "minItems": 1}


def read(folder: str) -> dict[str, Manifest]:
    """The manifests of a folder's files by kind and name."""
    files = sorted((DEPLOY / folder).glob("*.yaml"))
    found = [manifest for file in files for manifest in of_text(file.read_text())]
    return {f"{each['kind']} {each['metadata']['name']}": each for each in found if "metadata" in each}


def of_text(text: str) -> Iterator[Manifest]:
    """The manifests of one file."""
    return (each for each in yaml.safe_load_all(text) if each is not None)


def check(manifest: Manifest) -> None:
    """Whether Kubernetes, or the operator that defines its kind, knows every field.

    Kinds of operators are checked by the fields that we use; docs/deploy.md says what checked them in full.
    """
    schema = _CUSTOM.get((manifest["apiVersion"], manifest["kind"]))
    if schema is None:
        validate(manifest, VERSION, strict=True)
        return
    jsonschema.Draft202012Validator(
        _closed("spec", apiVersion=_TEXT, kind=_TEXT, metadata=_METADATA, spec=schema())
    ).validate(manifest)


_METADATA = _closed("name", name=_TEXT, namespace=_TEXT, labels=_LABELS, annotations=_LABELS)


def pod(spec: Manifest) -> Manifest:
    """A pod of these containers and volumes, which Kubernetes' own schema can check."""
    of_pod = {name: spec[name] for name in ("containers", "volumes")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": of_pod}


def _monitor() -> object:
    key = _closed("name key", name=_TEXT, key=_TEXT)
    endpoint = _closed(
        "port",
        port=_TEXT,
        path=_TEXT,
        interval={"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
        scheme={"enum": ["http", "https"]},
        tlsConfig=_closed("serverName ca", serverName=_TEXT, ca=_closed("secret", secret=key)),
    )
    return _closed("selector endpoints", selector=_closed(matchLabels=_LABELS), endpoints=_list(endpoint))


def _runtime() -> object:
    format_ = _closed("name", name=_TEXT, version=_TEXT, autoSelect=_BOOL, priority={"type": "integer"})
    return _closed(
        "containers",
        supportedModelFormats=_list(format_),
        protocolVersions=_list({"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}),
        multiModel=_BOOL,
        annotations=_LABELS,
        labels=_LABELS,
        containers={"type": "array"},
        volumes={"type": "array"},
    )


def _inference_service() -> object:
    model = _closed(
        "modelFormat",
        modelFormat=_closed("name", name=_TEXT, version=_TEXT),
        runtime=_TEXT,
        protocolVersion=_TEXT,
        storageUri=_TEXT,
        env={"type": "array"},
        resources={"type": "object"},
    )
    count = {"type": "integer", "minimum": 0}
    return _closed(
        "predictor",
        predictor=_closed(
            "model", minReplicas=count, maxReplicas=count, serviceAccountName=_TEXT, model=model
        ),
    )


_CUSTOM = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): _monitor,
    ("serving.kserve.io/v1alpha1", "ServingRuntime"): _runtime,
    ("serving.kserve.io/v1beta1", "InferenceService"): _inference_service,
}
