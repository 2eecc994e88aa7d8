"""The window's numbers over time, for small plots."""

from typing import Any

from pydantic import JsonValue

from serving.monitor.samples import Place
from serving.monitor.status import DomainStatus, Point

MOST = 120
"""Points of one route in one domain."""


class Points:
    """The last points of each route in each domain.

    Args:
        every_s: The time between two.
    """

    def __init__(self, every_s: float) -> None:
        self._every = every_s
        self._points: dict[Place, list[Point]] = {}
        self._counted: dict[Place, int] = {}  # images until the last point

    def after(self, at: float, place: Place, status: DomainStatus) -> tuple[Point, ...]:
        """The points of a place, with one of now where it is due."""
        points = self._points.setdefault(place, [])
        if not points or at - points[-1].at >= self._every:
            before = self._counted.get(place, 0)
            points.append(
                Point(
                    at=at,
                    images=status.images - before if status.images >= before else status.images,
                    confidence=status.confidence,
                    agreement=status.agreement,
                    estimate=status.headline.value if status.headline else None,
                    measured=status.measured.best.value if status.measured else None,
                )
            )
            self._counted[place] = status.images
            del points[:-MOST]
        return tuple(points)

    def clear(self) -> None:
        """Forgets all."""
        self._points.clear()

    def state(self) -> JsonValue:
        """All that it knows, to go on from after a restart."""
        return [
            [*place, self._counted.get(place, 0), [point.model_dump() for point in points]]
            for place, points in self._points.items()
        ]

    def restore(self, state: Any) -> None:
        """Goes on from a state.

        Raises:
            TypeError, ValueError: It is not one.
        """
        self._points, self._counted = {}, {}
        for route, domain, counted, points in state:
            place = (str(route), str(domain))
            self._points[place] = [Point.model_validate(point) for point in points]
            self._counted[place] = int(counted)
