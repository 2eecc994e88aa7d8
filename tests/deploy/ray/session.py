"""A real Ray with replicas of a tiny world, from start to end; prints what was seen as one JSON line.

It runs in a network namespace of its own (tests/deploy/ray/test_serve.py), because Ray's proxy listens on
all interfaces.
"""

import json
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.ray_cluster import ADDRESS, cluster, deploy, targets
from protos.corolla.v1 import admin_pb2, admin_pb2_grpc, classifier_pb2_grpc
from protos.inference import grpc_service_pb2 as oip
from protos.inference import grpc_service_pb2_grpc
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.labels import status_name
from serving.client.messages import RequestFailed, request_of
from tests.deploy.ray.encrypted import encrypted
from tests.nginx import program
from tests.serving.access.callers import Callers
from tests.serving.world import WAIT_S, World, encoded
from tests.waiting import until

CALLERS = 12
REPLICA = "ray::ServeRepli"  # Linux keeps 15 characters of a name
SCALING = {
    "min_replicas": 1,
    "max_replicas": 2,
    "target_ongoing_requests": 2,
    "upscale_delay_s": 0.5,
    "metrics_interval_s": 0.2,
    "look_back_period_s": 1,
}
CONVPASS = {"route": "convpass", "task": "shapes"}
OPTIONS: dict[str, Any] = {"autoscaling_config": SCALING, "ray_actor_options": {"num_cpus": 1}}


def counted(name: str, **labels: str) -> list[float]:
    """A sum of samples of every replica."""
    sums = []
    for target in targets():
        with urllib.request.urlopen(f"http://{target}/metrics", timeout=WAIT_S) as reply:
            families = list(text_string_to_metric_families(reply.read().decode()))
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        sums.append(sum(it.value for it in samples if labels.items() <= it.labels.items()))
    return sums


def classified() -> list[float]:
    return counted("corolla_requests_total", method="Classify", code="OK")


class Traffic:
    """Callers that never pause; one call each at a time."""

    def __init__(self, client: Client) -> None:
        self.client, self.answered = client, 0
        self.failures: list[RequestFailed] = []
        self._stop = threading.Event()

    def call(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                self.client.classify([encoded(number)], route="ssf", task="shapes")
                self.answered += 1
            except RequestFailed as error:
                self.failures.append(error)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        with ThreadPoolExecutor(CALLERS) as pool:
            for number in range(CALLERS):
                pool.submit(self.call, number)
            try:
                yield
            finally:
                self._stop.set()


def protocols(client: Client) -> dict[str, Any]:
    """What every protocol answers through the ingress."""
    image = encoded(1)
    answer = client.classify([image], route="lora", task="shapes")
    requests = ((str(number), request_of([image], route="lora", task="shapes")) for number in range(3))
    predictions = [client.classify([image], route=name, task="shapes") for name in ("lora", "ssf", "bitfit")]
    labels = [(str(it.results[0].prediction_id), "star") for it in predictions]
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(client.channel)
    message = oip.ModelInferRequest(model_name="shapes/lora")
    message.inputs.add(name="images", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(image)
    health = health_pb2_grpc.HealthStub(client.channel)
    return {
        "classify": answer.route,
        "stream": sorted(key for key, _ in client.stream(requests)),
        "features": len(client.embed([image], task="shapes").results[0].values),
        "feedback": [status_name(it) for it in client.feedback(labels).results],
        "infer": stub.ModelInfer(message).model_name,
        "infer_stream": [
            reply.infer_response.model_name for reply in stub.ModelStreamInfer(iter([message] * 2))
        ],
        "ready": stub.ServerReady(oip.ServerReadyRequest()).ready,
        "health": health.Check(health_pb2.HealthCheckRequest()).status,
        "routes": [it.route.name for it in AdminClient(client).list_routes(task="shapes").routes],
    }


def refusals(client: Client) -> dict[str, Any]:
    """How errors arrive."""
    found = {}
    try:
        client.classify([encoded(1)], route="nowhere", task="shapes")
    except RequestFailed as error:
        found["unary"] = [error.code, error.named_field]
    stub = grpc_service_pb2_grpc.GRPCInferenceServiceStub(client.channel)
    raw = client.channel.stream_stream("/corolla.v1.Classifier/ClassifyStream")
    try:
        list(raw(iter([b"\xff\xff\xff"])))
    except grpc.RpcError as error:
        found["stream"] = [error.code().name, error.details()]
    try:
        stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="shapes/nowhere"))
    except grpc.RpcError as error:
        found["every replica"] = [error.code().name]
    return found


def affinity(client: Client) -> dict[str, Any]:
    """How calls of one adapter are spread over the replicas: one at a time, and many at once."""
    before = classified()
    for number in range(20):
        client.classify([encoded(number)], **CONVPASS)
    single = [after - b for after, b in zip(classified(), before, strict=True)]
    before = classified()
    with ThreadPoolExecutor(CALLERS) as pool:
        list(pool.map(lambda number: client.classify([encoded(number)], **CONVPASS), range(120)))
    hot = [after - b for after, b in zip(classified(), before, strict=True)]
    return {"single": single, "hot": hot}


def told(traffic: Traffic) -> list[str]:
    """What failed calls said, each once."""
    return sorted({f"{error.code}: {error}" for error in traffic.failures})


def killed(client: Client) -> dict[str, Any]:
    """What becomes of calls while one of two replicas is killed."""
    traffic = Traffic(client)
    with traffic.flowing():
        until(lambda: len(classified()) == 2 and min(classified()) > CALLERS, every_s=0.2)
        before = set(targets())
        replicas()[0].kill()
        until(lambda: len(now := set(targets())) == 2 and now != before, every_s=0.2)
        answered = traffic.answered
        until(lambda: traffic.answered > answered + CALLERS)
    return {"replicas": len(replicas()), "failed": len(traffic.failures), "failures": told(traffic)}


def replicas() -> list[psutil.Process]:
    """The processes of the replicas; Ray names them after what they run."""
    return [it for it in psutil.process_iter() if it.name().startswith(REPLICA)]


def principals(client: Client, args: dict[str, Any], callers: Callers) -> dict[str, str]:
    """What becomes of calls with a token and without, once replicas know principals."""
    callers.add("reader", "infer")
    callers.add("keeper", "admin")
    gone = set(targets())
    deploy(args | {"principals": str(callers.write())}, **OPTIONS)
    until(lambda: not set(targets()) & gone, every_s=0.2)
    classify = classifier_pb2_grpc.ClassifierStub(client.channel).Classify
    manage = admin_pb2_grpc.AdminStub(client.channel).ListAdapters

    def code(call: Callable[..., object], request: object, caller: str | None) -> str:
        metadata = () if caller is None else callers.header(caller)
        try:
            call(request, metadata=metadata, timeout=WAIT_S)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"

    image = request_of([encoded(1)], route="lora", task="shapes")
    return {
        "classify, nobody": code(classify, image, None),
        "classify, reader": code(classify, image, "reader"),
        "classify, keeper": code(classify, image, "keeper"),
        "list, reader": code(manage, admin_pb2.ListAdaptersRequest(), "reader"),
        "list, keeper": code(manage, admin_pb2.ListAdaptersRequest(), "keeper"),
    }


def session(folder: Path) -> dict[str, Any]:
    world = World.make(folder / "store")
    args: dict[str, Any] = {"store": str(world.folder), "device": "cpu", "precision": "fp32", "admin": True}
    args |= {"prediction_key_file": str(folder / "key"), "label_share": 0, "frozen_share": 0}
    seen: dict[str, Any] = {}
    with cluster(cpus=4), Client(ADDRESS, timeout_s=WAIT_S) as client:
        deploy(args, **OPTIONS)
        seen["at first"] = len(targets())
        with Traffic(client).flowing():
            until(lambda: len(targets()) == 2, every_s=0.2)
        seen["under load"] = len(targets())
        seen["protocols"] = protocols(client)
        seen["refusals"] = refusals(client)
        before = counted("corolla_registered_adapters")
        AdminClient(client).load_adapter("lora", task="colours")
        seen["loaded"] = [
            after - earlier
            for after, earlier in zip(counted("corolla_registered_adapters"), before, strict=True)
        ]
        seen["affinity"] = affinity(client)
        gone = set(targets())
        traffic = Traffic(client)
        with traffic.flowing():
            deploy(args | {"max_images": 32}, **OPTIONS)
            until(lambda: not set(targets()) & gone, every_s=0.2)
            answered = traffic.answered
            until(lambda: traffic.answered > answered + CALLERS)
        seen["redeployed"] = {"answered": traffic.answered, "failures": told(traffic)}
        seen["killed"] = killed(client)
        callers = Callers(folder / "principals.json")
        seen["principals"] = principals(client, args, callers)
        if program() is not None:
            seen["encrypted"] = encrypted(folder, callers)
    return seen


if __name__ == "__main__":
    print(json.dumps(session(Path(sys.argv[1]))))
