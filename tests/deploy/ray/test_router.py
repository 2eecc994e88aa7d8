"""Which replica answers, without a cluster."""

import pickle
import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")

from ray.serve._private.common import gRPCRequest

from deploy.ray.router import BOUND, LEAST, AdapterRouter, adapters_of, preferred
from protos.corolla.v1 import classifier_pb2 as pb
from protos.inference import grpc_service_pb2 as oip

NOTHING: frozenset[str] = frozenset()


def order(*adapters: str, loads: dict[str, int], held: dict[str, frozenset[str]] | None = None) -> list[str]:
    holding = dict.fromkeys(loads, NOTHING) | (held or {})
    return preferred(adapters, held=holding, loads=loads, bound=BOUND, least=LEAST)


def call(method: str, message: Any, said: str = "") -> Any:
    """A call as Ray's proxy hands it to the router."""
    sent = pickle.dumps(gRPCRequest(user_request_proto=message.SerializeToString()))
    return SimpleNamespace(
        args=[sent], metadata=SimpleNamespace(call_method=method, multiplexed_model_id=said)
    )


def test_calls_of_one_adapter_prefer_the_replica_that_holds_it() -> None:
    idle = {"a": 0, "b": 0, "c": 0}

    for holder in idle:
        assert order("shapes/lora", loads=idle, held={holder: frozenset({"shapes/lora"})})[0] == holder


def test_an_ensemble_prefers_the_replica_that_holds_most_of_it() -> None:
    held = {"a": frozenset({"lora"}), "b": frozenset({"lora", "ssf"})}

    assert order("lora", "ssf", loads={"a": 0, "b": 0}, held=held)[0] == "b"


def test_adapters_that_nobody_holds_are_spread_and_each_stays_with_its_replica() -> None:
    idle = {"a": 0, "b": 0}
    first = {f"lora-{number}": order(f"lora-{number}", loads=idle)[0] for number in range(200)}

    assert {name: order(name, loads=dict(reversed(idle.items())))[0] for name in first} == first
    assert min(Counter(first.values()).values()) > 60


def test_a_new_replica_takes_over_only_its_own_share_of_the_adapters() -> None:
    names = [f"lora-{number}" for number in range(200)]
    before = {name: order(name, loads={"a": 0, "b": 0})[0] for name in names}
    after = {name: order(name, loads={"a": 0, "b": 0, "c": 0})[0] for name in names}

    moved = [name for name in names if after[name] != before[name]]
    assert {after[name] for name in moved} == {"c"}
    assert len(moved) < 100


@pytest.mark.parametrize(("bound", "most", "replicas"), [(1.0, 20, 3), (1.25, 25, 3), (BOUND, 30, 2)])
def test_one_hot_adapter_spreads_over_the_replicas_that_its_bound_asks_for(
    bound: float, most: int, replicas: int
) -> None:
    loads = {"a": 0, "b": 0, "c": 0}
    held = {"a": frozenset({"hot"}), "b": NOTHING, "c": NOTHING}
    for _ in range(60):
        loads[preferred(["hot"], held=held, loads=loads, bound=bound, least=LEAST)[0]] += 1

    assert loads["a"] == max(loads.values()) == most
    assert sum(load > 0 for load in loads.values()) == replicas


def test_few_calls_stay_together() -> None:
    loads = {"a": 0, "b": 0}
    for _ in range(LEAST):
        loads[order("lora", loads=loads)[0]] += 1

    assert sorted(loads.values()) == [0, LEAST]


def test_affinity_loads_adapters_less_often_than_random_choice_where_memory_is_short() -> None:
    names = [f"lora-{number}" for number in range(32)]
    drawn = random.Random(0).choices(names, k=2000)

    def loaded(choose: Any) -> int:
        """Loads of two replicas that hold 16 adapters each and forget the one used longest ago."""
        held: dict[str, list[str]] = {"a": [], "b": []}
        missed = 0
        for name in drawn:
            replica = held[choose(name, held)]
            missed += name not in replica
            replica[:] = [*(other for other in replica if other != name), name][-16:]
        return missed

    def affine(name: str, held: dict[str, list[str]]) -> str:
        known = {replica: frozenset(names) for replica, names in held.items()}
        return order(name, loads={"a": 0, "b": 0}, held=known)[0]

    chance = random.Random(1)
    assert loaded(affine) < loaded(lambda name, held: chance.choice("ab")) / 5


@pytest.mark.parametrize(
    ("method", "message", "adapters"),
    [
        (
            "Classify",
            pb.ClassifyRequest(task="shapes", route="lora, 0.5*ssf:2"),
            ["shapes/lora", "shapes/ssf"],
        ),
        ("Classify", pb.ClassifyRequest(route="colours/lora@prod"), ["colours/lora"]),
        ("Classify", pb.ClassifyRequest(route="not a route!"), ["not a route!"]),
        ("Classify", pb.ClassifyRequest(task="shapes"), None),
        ("Embed", pb.EmbedRequest(task="shapes", route="lora"), ["shapes/lora"]),
        ("ModelInfer", oip.ModelInferRequest(model_name="shapes/lora"), ["shapes/lora"]),
        (
            "ModelInfer",
            oip.ModelInferRequest(
                model_name="corolla",
                parameters={
                    "route": oip.InferParameter(string_param="lora"),
                    "task": oip.InferParameter(string_param="shapes"),
                },
            ),
            ["shapes/lora"],
        ),
        ("ServerReady", oip.ServerReadyRequest(), None),
    ],
)
def test_a_call_names_its_adapters_in_every_protocol(
    method: str, message: Any, adapters: list[str] | None
) -> None:
    assert adapters_of(call(method, message)) == adapters


def test_a_typed_route_names_its_adapters() -> None:
    message = pb.ClassifyRequest(task="shapes")
    term = message.typed_route.entries.add().model.terms.add()
    term.adapter.name = "lora"

    assert adapters_of(call("Classify", message)) == ["shapes/lora"]


def test_a_stream_names_its_adapters_in_the_metadata() -> None:
    assert adapters_of(call("ClassifyStream", pb.StreamRequest(), said="shapes/lora")) == ["shapes/lora"]
    assert adapters_of(call("ClassifyStream", pb.StreamRequest())) is None


def test_a_message_that_cannot_be_read_goes_to_any_replica() -> None:
    broken = SimpleNamespace(SerializeToString=lambda: b"\xff\xff\xff")

    assert adapters_of(call("Classify", broken)) is None


@pytest.mark.parametrize(("wrong", "field"), [({"bound": 0.5}, "bound"), ({"least": -1}, "least")])
def test_settings_of_the_router_that_cannot_work_are_refused(wrong: dict[str, float], field: str) -> None:
    with pytest.raises(ValueError, match=f"request_router_kwargs.{field}"):
        AdapterRouter.initialize_state(AdapterRouter.__new__(AdapterRouter), **wrong)  # type: ignore[arg-type]
