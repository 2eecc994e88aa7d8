"""The client of administration: looks into a server and changes it."""

from protos.corolla.v1 import admin_pb2 as pb
from protos.corolla.v1 import admin_pb2_grpc
from serving.client.blocking import Client


class AdminClient:
    """Looks into a server and changes it, over a client's channel.

    Adapters are named as in a route: `lora`, `lora:3`, `lora@prod`, `digits/lora`. An empty task means the
    only one that the server's store has. `timeout_s` is the deadline of a call in seconds; None is the
    client's. Every call raises `RequestFailed` when it fails.
    """

    def __init__(self, client: Client) -> None:
        self._call = client.call
        self._stub = admin_pb2_grpc.AdminStub(client.channel)

    # Adapters in memory

    def list_adapters(
        self, *, task: str = "", resident_only: bool = False, timeout_s: float | None = None
    ) -> pb.ListAdaptersResponse:
        """Lists the adapters of the server's store, and what those in memory take.

        Args:
            task: Only those of one task; empty is all.
            resident_only: Only those in memory.
        """
        request = pb.ListAdaptersRequest(task=task, resident_only=resident_only)
        return self._call(self._stub.ListAdapters, request, timeout_s=timeout_s)

    def load_adapter(
        self, adapter: str, *, task: str = "", timeout_s: float | None = None
    ) -> pb.AdapterState:
        """Loads an adapter into memory, verified."""
        request = pb.LoadAdapterRequest(adapter=adapter, task=task)
        return self._call(self._stub.LoadAdapter, request, timeout_s=timeout_s)

    def unload_adapter(
        self, adapter: str, *, task: str = "", timeout_s: float | None = None
    ) -> pb.UnloadAdapterResponse:
        """Frees an adapter's memory."""
        request = pb.UnloadAdapterRequest(adapter=adapter, task=task)
        return self._call(self._stub.UnloadAdapter, request, timeout_s=timeout_s)

    def pin_adapter(self, adapter: str, *, task: str = "", timeout_s: float | None = None) -> pb.AdapterState:
        """Loads an adapter and keeps it in memory."""
        request = pb.PinAdapterRequest(adapter=adapter, task=task)
        return self._call(self._stub.PinAdapter, request, timeout_s=timeout_s)

    def unpin_adapter(
        self, adapter: str, *, task: str = "", timeout_s: float | None = None
    ) -> pb.AdapterState:
        """Lets a pinned adapter go when its memory is needed."""
        request = pb.UnpinAdapterRequest(adapter=adapter, task=task)
        return self._call(self._stub.UnpinAdapter, request, timeout_s=timeout_s)

    # Names

    def list_aliases(self, *, task: str = "", timeout_s: float | None = None) -> pb.ListAliasesResponse:
        """Lists the aliases of adapters, of one task or of all."""
        return self._call(self._stub.ListAliases, pb.ListAliasesRequest(task=task), timeout_s=timeout_s)

    def set_alias(
        self,
        adapter: str,
        alias: str,
        version: int,
        *,
        task: str = "",
        expected: int | None = None,
        timeout_s: float | None = None,
    ) -> pb.SetAliasResponse:
        """Points an alias at a version, which is loaded and verified first.

        Args:
            adapter: Its name, without a version.
            expected: The alias moves only if it points at this version now.
        """
        request = pb.SetAliasRequest(
            adapter=adapter, alias=alias, version=version, task=task, expected_version=expected
        )
        return self._call(self._stub.SetAlias, request, timeout_s=timeout_s)

    def list_routes(self, *, task: str = "", timeout_s: float | None = None) -> pb.ListRoutesResponse:
        """Lists the named routes, of one task or of all."""
        return self._call(self._stub.ListRoutes, pb.ListRoutesRequest(task=task), timeout_s=timeout_s)

    def put_route(
        self,
        name: str,
        route: str,
        *,
        task: str = "",
        temperature: float | None = None,
        extrapolate: bool = False,
        follow: bool = False,
        timeout_s: float | None = None,
    ) -> pb.PutRouteResponse:
        """Keeps a route under a name, in the place of any other.

        Adapters without a version are pinned to the one that is the newest now; aliases stay aliases.

        Args:
            temperature: Divides the combined logits of the versions that answer now; None is the fitted one
                of a single adapter, else 1.
            extrapolate: Whether an alpha may be outside [0, 1].
            follow: Do not pin: the next version that is registered answers.
        """
        request = pb.PutRouteRequest(
            name=name,
            route=route,
            task=task,
            temperature=temperature,
            extrapolate=extrapolate,
            follow=follow,
        )
        return self._call(self._stub.PutRoute, request, timeout_s=timeout_s)

    def delete_route(
        self, name: str, *, task: str = "", timeout_s: float | None = None
    ) -> pb.DeleteRouteResponse:
        """Forgets a named route."""
        request = pb.DeleteRouteRequest(name=name, task=task)
        return self._call(self._stub.DeleteRoute, request, timeout_s=timeout_s)

    def list_changes(
        self, name: str = "", *, task: str = "", limit: int = 0, timeout_s: float | None = None
    ) -> pb.ListChangesResponse:
        """Lists who changed what names mean, and when: the newest changes, oldest first.

        Args:
            name: A named route, with the moves of its aliases, or ADAPTER@ALIAS; empty is all.
            task: Of a name without one; without a name, only changes of that task.
            limit: So many; 0 is 100.
        """
        request = pb.ListChangesRequest(name=name, task=task, limit=limit)
        return self._call(self._stub.ListChanges, request, timeout_s=timeout_s)

    def reload(self, *, timeout_s: float | None = None) -> pb.ReloadResponse:
        """Makes the server forget what names meant, and ask its store for all of it again."""
        return self._call(self._stub.Reload, pb.ReloadRequest(), timeout_s=timeout_s)

    # Domains

    def list_domains(self, *, timeout_s: float | None = None) -> pb.ListDomainsResponse:
        """Lists the domains that the server's metrics tell apart."""
        return self._call(self._stub.ListDomains, pb.ListDomainsRequest(), timeout_s=timeout_s)

    def add_domain(self, domain: str, *, timeout_s: float | None = None) -> pb.AddDomainResponse:
        """Adds a domain to those that the server's metrics tell apart, until it stops; safe to repeat."""
        return self._call(self._stub.AddDomain, pb.AddDomainRequest(domain=domain), timeout_s=timeout_s)
