"""Which replica answers a call: one that holds its adapters, unless that one is busier than the others.

Replicas are ordered by how many of the call's adapters they hold, then by how few adapters they hold at all,
then by a hash of the adapters and the replica (rendezvous hashing), so that proxies agree without asking each
other, and a new or lost replica moves only its own share of the adapters. The first of them whose load is
bounded answers: a replica has at most `bound` times the mean number of calls, or `least` calls where that is
more. So one hot adapter spreads over as many replicas as it needs (consistent hashing with bounded loads,
arXiv 1608.01350).

It runs in the proxies, without torch.
"""

import hashlib
import math
import pickle
import random
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError, Message
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from model_store.routes.text import parse_route
from petl_vit.errors import CorollaError
from protos.corolla.v1 import classifier_pb2
from protos.inference import grpc_service_pb2

BOUND = 1.5
"""With 1.25, an eighth of the calls miss their adapter, as batches end together: docs/scale.md."""
LEAST = 4

_REQUESTS: Mapping[str, type[Message]] = {
    "Classify": classifier_pb2.ClassifyRequest,
    "Embed": classifier_pb2.EmbedRequest,
    "ModelInfer": grpc_service_pb2.ModelInferRequest,
    "ModelReady": grpc_service_pb2.ModelReadyRequest,
}


class AdapterRouter(RequestRouter):  # type: ignore[misc]  # Ray is not read by mypy
    """Ray Serve's router for calls that name adapters; other calls go where the fewest are in progress."""

    def initialize_state(self, *, bound: float = BOUND, least: int = LEAST) -> None:
        """Takes `request_router_kwargs`.

        Args:
            bound: How many times the mean number of calls one replica may have; 1 spreads calls evenly.
            least: Calls that a replica may always have.

        Raises:
            ValueError: The bound is below 1, or `least` is below 0.
        """
        if not bound >= 1:
            raise ValueError(f"request_router_kwargs.bound: {bound} is below 1; {BOUND} is the default")
        if least < 0:
            raise ValueError(f"request_router_kwargs.least: {least} is below 0; {LEAST} is the default")
        self._bound, self._least = bound, least
        self._held: dict[str, tuple[object, frozenset[str]]] = {}

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas in the order in which they are asked; of one list, that with the fewest calls."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # Ray pauses where all are full
        adapters = None if pending_request is None else adapters_of(pending_request)
        if adapters is None:
            random.shuffle(candidate_replicas := list(candidate_replicas))
            return [candidate_replicas]
        ids = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        order = preferred(
            adapters,
            held={name: self._adapters_held(name, replica) for name, replica in ids.items()},
            loads={name: self._load(replica) for name, replica in ids.items()},
            bound=self._bound,
            least=self._least,
        )
        return [[ids[name]] for name in order]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Forgets what replicas held that are gone."""
        known = {replica.replica_id.unique_id for replica in replicas}
        self._held = {name: held for name, held in self._held.items() if name in known}
        super().update_replicas(replicas)

    def _load(self, replica: RunningReplica) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0

    def _adapters_held(self, name: str, replica: RunningReplica) -> frozenset[str]:
        stats = replica.routing_stats
        before = self._held.get(name)
        if before is None or before[0] is not stats:
            before = self._held[name] = (stats, frozenset(stats.get("adapters", ())))
        return before[1]


def preferred(
    adapters: Sequence[str],
    *,
    held: Mapping[str, frozenset[str]],
    loads: Mapping[str, int],
    bound: float,
    least: int,
) -> list[str]:
    """The replicas in the order in which a call is offered to them.

    Args:
        adapters: Of the call, as `adapters_of` names them.
        held: By replica, the adapters in its memory, as `TASK/NAME` and `NAME`.
        loads: By replica, its calls in progress.
        bound: How many times the mean a load may be.
        least: Calls that a replica may always have.
    """
    key = "\0".join(sorted(adapters))

    def affinity(replica: str) -> tuple[int, int, bytes]:
        weight = hashlib.blake2b(f"{key}\0{replica}".encode(), digest_size=8).digest()
        return sum(name in held[replica] for name in adapters), -len(held[replica]), weight

    order = sorted(loads, key=affinity, reverse=True)
    most = max(least, math.ceil(bound * (sum(loads.values()) + 1) / max(1, len(loads))))
    return sorted(order, key=lambda replica: loads[replica] >= most)


def adapters_of(request: PendingRequest) -> list[str] | None:
    """The adapters that a call names, as `TASK/NAME`, or `NAME` where it gives no task.

    A call may name its route in the metadata key `multiplexed_model_id`, as `ROUTE` or `TASK/ROUTE`: a stream
    is to, because its messages are read after a replica was chosen. None where nothing is named.
    """
    said = request.metadata.multiplexed_model_id
    if said:
        return _names("", said)
    kind = _REQUESTS.get(request.metadata.call_method)
    if kind is None or not request.args:
        return None
    try:
        return _named(kind.FromString(pickle.loads(request.args[0]).user_request_proto))
    except DecodeError:
        return None  # the replica refuses it, whichever it is


def _named(message: Any) -> list[str] | None:
    if isinstance(message, grpc_service_pb2.ModelInferRequest):
        said = {name: value.string_param for name, value in message.parameters.items()}
        text = said.get("route") or said.get("adapter") or message.model_name
        return _names(said.get("task", ""), text) if text else None
    if isinstance(message, grpc_service_pb2.ModelReadyRequest):
        return _names("", message.name) if message.name else None
    kind = message.WhichOneof("route_spec")
    if kind == "route":
        return _names(message.task, message.route)
    if kind == "typed_route":
        models = [entry.model for entry in message.typed_route.entries]
        terms = [term.adapter for model in models for term in model.terms]
        return [_full(ref.task or message.task, ref.name) for ref in terms] or None
    return None


def _names(task: str, text: str) -> list[str]:
    try:
        terms = parse_route(text).terms
    except CorollaError:
        return [_full(task, text)]  # not a route, but calls with the same words belong together
    return [_full(term.adapter.task or task, term.adapter.name) for term in terms]


def _full(task: str, name: str) -> str:
    return f"{task}/{name}" if task else name
