"""An evaluator's metrics port without its evaluator: what it shows is what a test says."""

import time
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry

from serving.metrics.port import MetricsPort
from serving.monitor.gauges import Gauges
from serving.monitor.status import (
    Alarm,
    DomainStatus,
    Estimate,
    Headline,
    Line,
    Measured,
    PostStratified,
    PredictionPowered,
    RouteStatus,
    Status,
)

ROUTE, DOMAIN = "digits/best", "photo"
ALARM = Alarm(
    route=ROUTE,
    domain=DOMAIN,
    kind="shift",
    indicator="unsure",
    e_value=4,
    threshold=3,
    images=9,
    first_seen=0,
)


class Watched:
    """Every number that an evaluator may show of one route in one domain, scraped like it.

    Attributes:
        alarms: Those that are raised now.
    """

    def __init__(self) -> None:
        self.alarms: tuple[Alarm, ...] = ()
        registry = CollectorRegistry()
        registry.register(Gauges(self._status))
        self._port = MetricsPort(registry, port=0)
        self.port = self._port.port

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._port.close()

    def _status(self) -> Status:
        band = {"value": 0.8, "low": 0.7, "high": 0.9}
        domain = DomainStatus(
            domain=DOMAIN,
            images=9,
            images_in_window=9,
            estimates=(Estimate(method="aline_s", **band),),
            headline=Headline(**band, spread=0.1),
            line=Line(r2=0.96, slope=1, pairs=6, used=True),
            measured=Measured(
                labels=9,
                accuracy=0.8,
                low=0.7,
                high=0.9,
                prediction_powered=PredictionPowered(**band, labels=9),
                post_stratified=PostStratified(**band, covered=1),
            ),
            alarms=self.alarms,
            evidence={"unsure": 4},
            threshold=3,
        )
        route = RouteStatus(route=ROUTE, domains=(domain,))
        return Status(at=time.time(), source="test", window_s=60, label_window_s=60, routes=(route,))
