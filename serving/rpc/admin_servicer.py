"""Serves corolla.v1.Admin: protobuf to calls of `registry.admin`, and answers to protobuf."""

from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

import grpc

from model_store.format.records import Audit, Cascade, NamedRoute
from protos.corolla.v1 import admin_pb2 as pb
from protos.corolla.v1 import admin_pb2_grpc
from serving.access import rights
from serving.access.caller import caller
from serving.access.principals import Scope
from serving.metrics.events import Metrics
from serving.metrics.label_values import MAX_DOMAINS
from serving.registry.admin import AdapterAlias, Admin, RouteState
from serving.registry.listing import AdapterState, Memory
from serving.rpc.call import caller_of, in_pool, path, show_calls, unary

_SERVICE = pb.DESCRIPTOR.services_by_name["Admin"]
SERVICE = _SERVICE.full_name
NEEDS: Mapping[str, Scope] = {path(method): Scope.ADMIN for method in _SERVICE.methods}
"""What each call needs of its caller, by its path."""


class AdminServicer(admin_pb2_grpc.AdminServicer):
    """Serves corolla.v1.Admin.

    Args:
        pool: Threads for this service alone, so that loading and listing delay nobody else.
    """

    def __init__(self, *, admin: Admin, metrics: Metrics, pool: Executor) -> None:
        self.metrics, self._admin, self._pool = metrics, admin, pool
        show_calls(_SERVICE, metrics)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Makes a server answer the service's calls."""
        admin_pb2_grpc.add_AdminServicer_to_server(self, server)

    @unary
    async def ListAdapters(self, request: pb.ListAdaptersRequest, context: Any) -> pb.ListAdaptersResponse:
        return await in_pool(self._pool, self._list_adapters, request)

    @unary
    async def LoadAdapter(self, request: pb.LoadAdapterRequest, context: Any) -> pb.AdapterState:
        return await in_pool(self._pool, self._load, request)

    @unary
    async def UnloadAdapter(self, request: pb.UnloadAdapterRequest, context: Any) -> pb.UnloadAdapterResponse:
        return await in_pool(self._pool, self._unload, request)

    @unary
    async def PinAdapter(self, request: pb.PinAdapterRequest, context: Any) -> pb.AdapterState:
        return await in_pool(self._pool, self._pin, request)

    @unary
    async def UnpinAdapter(self, request: pb.UnpinAdapterRequest, context: Any) -> pb.AdapterState:
        return await in_pool(self._pool, self._unpin, request)

    @unary
    async def ListAliases(self, request: pb.ListAliasesRequest, context: Any) -> pb.ListAliasesResponse:
        return await in_pool(self._pool, self._list_aliases, request)

    @unary
    async def SetAlias(self, request: pb.SetAliasRequest, context: Any) -> pb.SetAliasResponse:
        return await in_pool(self._pool, self._set_alias, request, caller_of(context))

    @unary
    async def ListRoutes(self, request: pb.ListRoutesRequest, context: Any) -> pb.ListRoutesResponse:
        return await in_pool(self._pool, self._list_routes, request)

    @unary
    async def PutRoute(self, request: pb.PutRouteRequest, context: Any) -> pb.PutRouteResponse:
        return await in_pool(self._pool, self._put_route, request, caller_of(context))

    @unary
    async def DeleteRoute(self, request: pb.DeleteRouteRequest, context: Any) -> pb.DeleteRouteResponse:
        return await in_pool(self._pool, self._delete_route, request, caller_of(context))

    @unary
    async def ListChanges(self, request: pb.ListChangesRequest, context: Any) -> pb.ListChangesResponse:
        return await in_pool(self._pool, self._list_changes, request)

    @unary
    async def Reload(self, request: pb.ReloadRequest, context: Any) -> pb.ReloadResponse:
        return await in_pool(self._pool, self._reload, request)

    @unary
    async def ListDomains(self, request: pb.ListDomainsRequest, context: Any) -> pb.ListDomainsResponse:
        return pb.ListDomainsResponse(domains=self.metrics.domains.listed, limit=MAX_DOMAINS)

    @unary
    async def AddDomain(self, request: pb.AddDomainRequest, context: Any) -> pb.AddDomainResponse:
        rights.check_unlimited(caller(), "domains")
        added = await in_pool(self._pool, self.metrics.add_domain, request.domain)
        return pb.AddDomainResponse(added=added, domains=self.metrics.domains.listed, limit=MAX_DOMAINS)

    # In the pool

    def _list_adapters(self, request: pb.ListAdaptersRequest) -> pb.ListAdaptersResponse:
        listing = self._admin.adapters(request.task, resident_only=request.resident_only)
        return pb.ListAdaptersResponse(
            adapters=map(_adapter, listing.adapters),
            registered=_memory(listing.registered),
            slots=_memory(listing.slots),
        )

    def _load(self, request: pb.LoadAdapterRequest) -> pb.AdapterState:
        return _adapter(self._admin.load(request.adapter, request.task))

    def _unload(self, request: pb.UnloadAdapterRequest) -> pb.UnloadAdapterResponse:
        unloaded = self._admin.unload(request.adapter, request.task)
        return pb.UnloadAdapterResponse(
            name=unloaded.name,
            digest=unloaded.digest,
            freed_bytes=unloaded.freed or 0,
            was_loaded=unloaded.freed is not None,
        )

    def _pin(self, request: pb.PinAdapterRequest) -> pb.AdapterState:
        return _adapter(self._admin.pin(request.adapter, request.task))

    def _unpin(self, request: pb.UnpinAdapterRequest) -> pb.AdapterState:
        return _adapter(self._admin.unpin(request.adapter, request.task))

    def _list_aliases(self, request: pb.ListAliasesRequest) -> pb.ListAliasesResponse:
        return pb.ListAliasesResponse(aliases=map(_alias, self._admin.aliases(request.task)))

    def _set_alias(self, request: pb.SetAliasRequest, by: str) -> pb.SetAliasResponse:
        done = self._admin.set_alias(
            request.adapter,
            request.alias,
            request.version,
            task=request.task,
            expected=request.expected_version if request.HasField("expected_version") else None,
            by=by,
        )
        return pb.SetAliasResponse(
            alias=_alias(done.alias), previous_version=done.before or 0, notes=done.notes
        )

    def _list_routes(self, request: pb.ListRoutesRequest) -> pb.ListRoutesResponse:
        return pb.ListRoutesResponse(routes=map(_route, self._admin.routes(request.task)))

    def _put_route(self, request: pb.PutRouteRequest, by: str) -> pb.PutRouteResponse:
        answer = self._admin.put_route(
            request.task,
            request.name,
            request.route,
            temperature=request.temperature if request.HasField("temperature") else None,
            extrapolate=request.extrapolate,
            follow=request.follow,
            by=by,
        )
        return pb.PutRouteResponse(
            route=_named(answer.route),
            temperature_reason=answer.why,
            shadows_adapter=answer.shadows,
            resolved=answer.resolved,
            notes=answer.notes,
        )

    def _delete_route(self, request: pb.DeleteRouteRequest, by: str) -> pb.DeleteRouteResponse:
        task = self._admin.delete_route(request.task, request.name, by)
        return pb.DeleteRouteResponse(task=task, name=request.name)

    def _list_changes(self, request: pb.ListChangesRequest) -> pb.ListChangesResponse:
        records = self._admin.history(request.name, request.task, limit=request.limit)
        return pb.ListChangesResponse(changes=map(_audit, records))

    def _reload(self, _: pb.ReloadRequest) -> pb.ReloadResponse:
        changes = self._admin.reload()
        return pb.ReloadResponse(
            changes=[
                pb.NameChange(name=change.name, before=change.before, after=change.after)
                for change in changes
            ]
        )


# To protobuf


def _adapter(state: AdapterState) -> pb.AdapterState:
    message = pb.AdapterState(
        name=state.name,
        digest=state.digest,
        method=state.method,
        aliases=state.aliases,
        stored=state.stored,
        problem=state.problem,
    )
    resident = state.resident
    if resident is not None:
        message.registered = True
        message.in_slot, message.pinned = resident.in_slot, resident.pinned
        message.registered_bytes, message.slot_bytes = resident.registered_bytes, resident.slot_bytes
        message.in_use = resident.rows_in_use
        message.exact = resident.exact
        if resident.bf16_difference is not None:
            message.bf16_difference = resident.bf16_difference
        message.last_used.FromNanoseconds(int(resident.last_used_at * 1e9))
    return message


def _memory(memory: Memory) -> pb.Memory:
    return pb.Memory(adapters=memory.adapters, bytes=memory.size, budget_bytes=memory.budget)


def _alias(alias: AdapterAlias) -> pb.AdapterAlias:
    return pb.AdapterAlias(adapter=str(alias.adapter), alias=alias.alias, version=alias.version)


def _named(route: NamedRoute) -> pb.NamedRoute:
    return pb.NamedRoute(
        task=route.task,
        name=route.name,
        route=route.route,
        temperature=route.temperature,
        extrapolate=route.extrapolate,
        versions=[pb.ExactVersion(adapter=v.adapter, digest=v.digest) for v in route.versions],
        cascade=None if route.cascade is None else _cascade(route.cascade),
    )


def _cascade(cascade: Cascade) -> pb.Cascade:
    return pb.Cascade(
        score=cascade.score,
        order=cascade.order,
        stages=[pb.CascadeStage(threshold=s.threshold, temperature=s.temperature) for s in cascade.stages],
        loss=cascade.loss,
        measured=pb.CascadeMeasured(**dict(cascade.measured)),
    )


def _route(state: RouteState) -> pb.RouteState:
    message = pb.RouteState(
        route=pb.NamedRoute(task=state.task, name=state.name) if state.route is None else _named(state.route),
        problem=state.problem,
        follows=() if state.route is None else state.route.follows,
    )
    if state.plan is not None:
        message.resolved, message.note = str(state.plan.resolved), state.plan.note
        message.temperature, message.thresholds_void = state.plan.temperature, state.plan.void
    return message


def _audit(record: Audit) -> pb.AuditRecord:
    message = pb.AuditRecord(
        name=record.name,
        before=record.before,
        after=record.after,
        before_versions=record.before_versions,
        after_versions=record.after_versions,
        before_temperature=record.before_temperature,
        after_temperature=record.after_temperature,
        by=record.by,
        note=record.note,
    )
    message.at.FromDatetime(record.at)
    return message
