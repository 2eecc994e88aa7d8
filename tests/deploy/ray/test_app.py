"""The application of a Serve config, without a cluster."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")

from ray.serve.schema import ServeDeploySchema

from deploy.ray.app import NAME, SERVICES, Replica, add_services, build, deployment
from deploy.ray.router import AdapterRouter
from petl_vit.errors import InvalidInput

FOLDER = Path(__file__).parents[3] / "deploy" / "ray"


def test_the_example_config_fits_ray_and_the_application() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load((FOLDER / "serve.yaml").read_text()))

    (application,) = config.applications
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert [it.name for it in application.deployments] == [NAME]
    assert config.grpc_options.request_timeout_s is None, "it would end streams"
    assert config.grpc_options.grpc_servicer_functions == [f"{add_services.__module__}.add_services"]
    assert build(application.args) is not None


def test_calls_are_routed_by_adapter() -> None:
    router = deployment._deployment_config.request_router_config  # type: ignore[attr-defined]

    assert router.get_request_router_class() is AdapterRouter


@pytest.mark.parametrize(
    ("args", "field", "remedy"),
    [
        ({}, "store", "s3://models/corolla"),
        ({"store": "s", "port": 1}, "port", "leave it out"),
        ({"store": "s", "tls_key": "k"}, "tls_key", "end TLS in front"),
        ({"store": "s", "max_imagess": 1}, "max_imagess", "max_images"),
        ({"store": "s", "max_images": 0}, "max_images", "greater than or equal to 1"),
    ],
)
def test_settings_that_replicas_cannot_have_are_refused_by_name(
    args: dict[str, Any], field: str, remedy: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        build(args)

    assert refused.value.field == field
    assert remedy in str(refused.value)


def test_the_proxy_takes_every_call_but_watches_of_health_as_bytes() -> None:
    taken: dict[str, Any] = {}
    server = SimpleNamespace(
        service_handler_factory=None,
        add_generic_rpc_handlers=lambda handlers: None,
        add_registered_method_handlers=lambda service, handlers: taken.update(
            {f"{service}/{name}": handler for name, handler in handlers.items()}
        ),
    )
    add_services(None, server)

    known = {f"{service.full_name}/{method.name}" for service in SERVICES for method in service.methods}
    known.remove("grpc.health.v1.Health/Watch")  # it would hold a place in Ray for ever
    assert set(taken) == known
    assert all(handler.request_deserializer is None for handler in taken.values())
    assert len({name.rpartition("/")[2] for name in known}) == len(known), "Ray calls methods by name alone"
    assert all(callable(getattr(Replica, name.rpartition("/")[2])) for name in known)
    assert not hasattr(Replica, "Watch")
