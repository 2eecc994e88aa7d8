"""The named routes of a store, moved by compare and swap."""

from contextlib import suppress

from model_store.collections import missing
from model_store.collections.adapters import Adapters
from model_store.collections.history import History, route_audit
from model_store.format import keys
from model_store.format.records import NamedRoute
from model_store.names import LATEST
from model_store.place.objects import Place
from model_store.routes.algebra import Route
from petl_vit.errors import Conflict, CorollaError, Corrupt, NotFound


class Routes:
    """The named routes in a place, beside the adapters in it, and the history of their changes."""

    def __init__(self, place: Place, adapters: Adapters, history: History) -> None:
        self._place = place
        self._adapters = adapters
        self._history = history

    def put(
        self, route: NamedRoute, expected: NamedRoute | None = None, *, by: str | None = None
    ) -> NamedRoute | None:
        """Keep a route under its name, in the place of any other; with `expected`, only of that one.

        Args:
            by: Who puts it, for the history; None is the user of this process.

        Returns:
            The route that it replaced; None where there was none, or a damaged one.

        Raises:
            Conflict: The route is not `expected`.
        """
        key, before = keys.route(route.task, route.name), list[NamedRoute | None]()

        def change(data: bytes | None) -> bytes:
            before[:] = [_parsed(data, key)]
            if expected is not None and (data is None or NamedRoute.parse(data, key) != expected):
                raise Conflict(f"route {route.name!r} has changed", field="route", remedy="look again")
            return route.encode()

        self._place.swap(key, change)
        self._history.add_route(key, before[0], route, by)
        return before[0]

    def get(self, task: str, name: str) -> NamedRoute:
        """Read a named route.

        Raises:
            NotFound: No such route; names near matches.
        """
        key = keys.route(task, name)
        data = self._place.read(key)
        if data is None:
            raise self._missing(task, name)
        route = NamedRoute.parse(data, key)
        if (route.task, route.name) != (task, name):
            raise Corrupt(f"the route says it is {route.task}/{route.name}", field=key, remedy="put it again")
        return route

    def meant_by(self, task: str, route: Route) -> NamedRoute | None:
        """The named route that a route of a single bare name means; None where it means an adapter.

        Raises:
            NotFound: Neither has that name; names near matches among both.
        """
        ref = route.single
        if not task or ref is None or ref.is_base or str(route) != ref.name:
            return None
        with suppress(NotFound):
            return self.get(task, ref.name)
        if self._adapters.version_of(task, ref.name, LATEST) is None:
            self._check_is_adapter(task, ref.name)
        return None

    def delete(self, task: str, name: str, *, by: str | None = None) -> None:
        """Forget a named route.

        Args:
            by: Who deletes it, for the history; None is the user of this process.

        Raises:
            NotFound: No such route.
        """
        key = keys.route(task, name)
        with self._place.exclusive():
            data = self._place.read(key)
            if data is not None:
                self._place.delete(key)
        if data is None:
            raise self._missing(task, name)
        before = _parsed(data, key)
        note = "" if before is not None else "it was damaged"
        self._history.add(key, route_audit(f"{task}/{name}", before, None, by=by, note=note))

    def names(self, task: str | None = None) -> list[tuple[str, str]]:
        """The tasks and names of the routes of one task or of all, none of which is read."""
        return keys.routes_in(self._place.keys(keys.below(keys.ROUTES, task)))

    def list(self, task: str | None = None) -> list[NamedRoute]:
        """The named routes of one task or of all, by task and name."""
        return [self.get(home, name) for home, name in self.names(task)]

    def _check_is_adapter(self, task: str, name: str) -> None:
        """Refuses, where there are named routes too, a name that is neither a route nor an adapter."""
        routes = {route for _, route in self.names(task)}
        adapters = {adapter.name for adapter in self._adapters.list(task)}
        if routes and name not in adapters:
            raise missing.adapter_or_route(task, name, routes | adapters)

    def _missing(self, task: str, name: str) -> NotFound:
        return missing.route(task, name, (route for _, route in self.names(task)))


def _parsed(data: bytes | None, key: str) -> NamedRoute | None:
    """The route that stands somewhere; None where it is damaged, too."""
    with suppress(CorollaError):
        return None if data is None else NamedRoute.parse(data, key)
    return None
