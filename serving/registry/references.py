"""The references of named routes: which one of the store each is compared with now.

A reference that was measured while a server runs is found within half a minute, and at once where a named
route is answered otherwise. Of routes without a current one the newest references are read, to say of what
versions they are. Blocking.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from threading import Lock
from typing import Self

from model_store.format.reference import Reference, ReferenceRoute
from model_store.place.objects import Stamp
from model_store.resolution.reference import Referenced, differences, is_former, referenced_route
from petl_vit.errors import CorollaError, Corrupt, Unsupported
from serving.registry.catalog import Catalog, Plan

_log = logging.getLogger(__name__)

_EVERY_S = 30.0
_READ = 256
"""References that are read at most, to find what a route without a current one was measured as."""

_Key = tuple[str, str]  # the digests of the route and of the images
_Stamps = Mapping[_Key, Stamp]


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What a reference is of; its route is None where its file is damaged."""

    stamp: Stamp
    route: ReferenceRoute | None
    made_at: datetime


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """What a named route is compared with; neither key nor stamp where that is nothing."""

    plan: Plan
    key: _Key | None = None
    stamp: Stamp | None = None
    stale: str = ""


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """The references of a store.

    Attributes:
        by_route: Those of each route, by its digest.
        newest: At most `_READ` of them, the newest first.
    """

    stamps: _Stamps
    by_route: Mapping[str, Sequence[_Key]]
    newest: Sequence[_Key]

    @classmethod
    def of(cls, stamps: _Stamps) -> Self:
        by_route: dict[str, list[_Key]] = {}
        for key in stamps:
            by_route.setdefault(key[0], []).append(key)
        newest = sorted(stamps, key=lambda key: stamps[key].modified, reverse=True)
        return cls(stamps=stamps, by_route=by_route, newest=newest[:_READ])


class RouteReferences:
    """Follows the references of the named routes in a catalog.

    Args:
        show: Called with the name of a named route, how it is answered and what it is compared with, where
            one of them is new; the route is `TASK/NAME`.
        every_s: How often the store is asked for references, seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        show: Callable[[str, Plan, Referenced], object],
        every_s: float = _EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog, self._show = catalog, show
        self._every_s, self._clock = every_s, clock
        self._following = Lock()
        self._known: dict[_Key, _Known] = {}
        self._read: dict[_Key, Reference | None] = {}  # in this look
        self._shown: dict[str, _Shown] = {}
        self._compared: _Stamps | None = None  # with older references too
        self._asked_at: float | None = None
        self._reachable = True

    def start(self) -> None:
        """Shows the current reference of every named route; that of those without one is left for later."""
        self._follow(former=False)

    def follow(self, *, changed: bool = False) -> None:
        """Shows what each named route is compared with, if it is time to ask the store.

        Args:
            changed: Whether names have changed, so that it is time in any case.
        """
        now = self._clock()
        if changed or self._asked_at is None or now - self._asked_at >= self._every_s:
            self._follow(former=True)
            self._asked_at = now

    def _follow(self, *, former: bool) -> None:
        with self._following:
            try:
                self._compare(former)
            except CorollaError as error:
                if self._reachable:
                    _log.warning("references stay as they were: %s", error)
                self._reachable = False
            else:
                self._reachable = True
            finally:
                self._read.clear()

    def _compare(self, former: bool) -> None:
        stamps = self._catalog.store.references.stamps()
        self._known = {key: known for key, known in self._known.items() if stamps.get(key) == known.stamp}
        named, unchanged, listed = self._catalog.named, stamps == self._compared, _Listed.of(stamps)
        for name, (_, plan) in named.items():
            shown = self._shown.get(name)
            if not unchanged or shown is None or shown.plan != plan:
                self._set(name, self._chosen(name, plan, listed, former))
        for name in self._shown.keys() - named.keys():
            gone = self._shown.pop(name)
            self._show(name, gone.plan, Referenced(reference=None))
        self._compared = stamps if former else None

    def _chosen(self, name: str, plan: Plan, listed: _Listed, former: bool) -> _Shown:
        """The newest reference of what answers now, else of what answered before."""
        stamps = listed.stamps
        key = self._newest(listed.by_route.get(plan.digest, ()), stamps, lambda route: True)
        if key is not None or not former:
            return _Shown(plan=plan, key=key, stamp=None if key is None else stamps[key])
        now = _route(name, plan)
        key = self._newest(listed.newest, stamps, lambda route: is_former(route, now))
        if key is None:
            return _Shown(plan=plan)
        before = self._known[key].route
        assert before is not None, "what was chosen is not damaged"
        return _Shown(plan=plan, key=key, stamp=stamps[key], stale=differences(before, now))

    def _newest(
        self, among: Sequence[_Key], stamps: _Stamps, fits: Callable[[ReferenceRoute], bool]
    ) -> _Key | None:
        def dated() -> Iterator[tuple[datetime, _Key]]:
            for key in among:
                known = self._look_up(key, stamps[key])
                if known.route is not None and fits(known.route):
                    yield known.made_at, key

        return max(dated(), default=(None, None))[1]

    def _look_up(self, key: _Key, stamp: Stamp) -> _Known:
        """What a reference is of, read once."""
        if key not in self._known:
            reference = self._reference(key)
            self._known[key] = _Known(
                stamp=stamp,
                route=None if reference is None else reference.route,
                made_at=stamp.modified if reference is None else reference.made_at,
            )
        return self._known[key]

    def _reference(self, key: _Key) -> Reference | None:
        """Reads a reference, once in each look; says so where it is damaged or of a newer format."""
        if key not in self._read:
            try:
                self._read[key] = self._catalog.store.references.get(*key)
            except (Corrupt, Unsupported) as error:
                _log.warning("a reference is not used: %s", error)
                self._read[key] = None
        return self._read[key]

    def _set(self, name: str, chosen: _Shown) -> None:
        if chosen == self._shown.get(name):
            return
        reference = None if chosen.key is None else self._reference(chosen.key)
        self._show(name, chosen.plan, Referenced(reference=reference, stale=chosen.stale))
        self._shown[name] = chosen
        if chosen.stale:
            task, _, route = name.partition("/")
            _log.warning(
                "nothing is estimated of route %s, for its reference is stale: %s; to measure it: "
                "corolla routes reference %s --task %s",
                name,
                chosen.stale,
                route,
                task,
            )
        elif reference is not None:
            _log.info(
                "route %s is compared with %d images of %s, of which it answered %.1f %% rightly",
                name,
                reference.images,
                reference.data.name,
                100 * reference.accuracy,
            )


def _route(name: str, plan: Plan) -> ReferenceRoute:
    """A named route as a reference says it; `name` is `TASK/NAME`."""
    return referenced_route(
        plan.resolved, plan.temperature, name=name.partition("/")[2], cascade=plan.cascade
    )
