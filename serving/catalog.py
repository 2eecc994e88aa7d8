"""What a request's names mean right now: named routes, aliases and versions, as the store says.

Answers are kept for `refresh_s` seconds, so a moved alias takes at most that long to be followed; what
a request resolved to stays fixed while it runs. Blocking: called in the pool, never on the event loop.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from model_store import routes
from model_store.manifest import NamedRoute
from model_store.resolution import ResolvedRoute, resolve
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt, InvalidInput

_log = logging.getLogger(__name__)

_KEPT = 1024


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a request is to be answered.

    Attributes:
        named: `task/name` of the named route it came by, or None for an ad-hoc route.
        temperature: Divides the combined logits; 1 for an ad-hoc route.
    """

    resolved: ResolvedRoute
    named: str | None
    temperature: float


class Catalog:
    """Resolves routes against a store.

    Args:
        store: Where names live.
        backbone_digest: The backbone that is served.
        refresh_s: How old an answer may be, seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        backbone_digest: str,
        *,
        refresh_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._backbone_digest = store, backbone_digest
        self._refresh_s, self._clock = refresh_s, clock
        self._kept: OrderedDict[tuple[str, str, bool], tuple[float, Plan]] = OrderedDict()
        self._lock = threading.Lock()

    def plan(self, task: str, route: routes.Route, *, extrapolate: bool) -> Plan:
        """What answers a route asked for by a request.

        Args:
            task: The request's task; may be empty where the route names one, or the store has only one.

        Raises:
            NotFound: A name that does not exist.
            InvalidInput: No task; alpha out of range; members that do not fit together.
        """
        key = (task, str(route), extrapolate)
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and kept[0] > self._clock():
            return kept[1]
        plan = self._plan(task, route, extrapolate)
        with self._lock:
            self._kept[key] = (self._clock() + self._refresh_s, plan)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return plan

    def named_routes(self) -> list[tuple[NamedRoute, Plan]]:
        """Every named route that can be served by this backbone now."""
        found = []
        # What is damaged or unknown answers with its own error when it is asked for.
        with suppress(CorollaError):
            for named in self._store.routes():
                with suppress(CorollaError):
                    found.append((named, self._named_plan(named)))
        return found

    def image_sizes(self) -> list[int]:
        """The input sizes of the backbone's tasks, pixels; none while a task's file is damaged.

        Sizes that are missing here are added when they are asked for.
        """
        try:
            tasks = [record.spec for record in self._store.tasks()]
        except Corrupt as error:
            _log.warning("tasks are not warmed up: %s", error)
            return []
        return sorted({t.preprocess.image_size for t in tasks if t.backbone_digest == self._backbone_digest})

    def _plan(self, task: str, route: routes.Route, extrapolate: bool) -> Plan:
        task = task or self._only_task(route)
        named = self._store.route_meant(task, route)
        if named is not None:
            return self._named_plan(named)
        routes.check_alphas(route, extrapolate)
        return Plan(resolved=self._resolve(route, task), named=None, temperature=1.0)

    def _named_plan(self, named: NamedRoute) -> Plan:
        route = named.parsed()
        routes.check_alphas(route, named.extrapolate)
        return Plan(
            resolved=self._resolve(route, named.task),
            named=f"{named.task}/{named.name}",
            temperature=named.temperature,
        )

    def _resolve(self, route: routes.Route, task: str) -> ResolvedRoute:
        return resolve(route, task=task, lookup=self._store, backbone_digest=self._backbone_digest)

    def _only_task(self, route: routes.Route) -> str:
        """The task of a request that names none."""
        if all(ref.task for ref in route.adapters):
            return ""
        names = sorted({record.spec.name for record in self._store.tasks()})
        if len(names) == 1:
            return names[0]
        remedy = f"set it to one of {', '.join(names)}" if names else "train an adapter first"
        raise InvalidInput("the request names no task", field="task", remedy=remedy)
