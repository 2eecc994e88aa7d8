"""What an evaluator could say, made by hand: of routes that are watched, and of others."""

from typing import Any

from serving.monitor.status import (
    Alarm,
    DomainStatus,
    Estimate,
    Headline,
    Line,
    Measured,
    MemberStatus,
    Point,
    PredictionPowered,
    ReferenceStatus,
    RouteStatus,
    Status,
)

NOW = 1_800_000_000.0
MINUTE = 60.0
REFERENCE = ReferenceStatus(
    digest="sha256:4be1" + 60 * "0",
    data="photos/val",
    images=1240,
    accuracy=0.931,
    confidence=0.942,
    agreement=0.957,
)


def history(
    *, drop: float = 0.0, labels: bool = True, watched: bool = True, points: int = 60
) -> tuple[Point, ...]:
    """An hour, in whose second half the accuracy drops."""
    shares = [max(0.0, 2 * place / points - 1) for place in range(points)]
    return tuple(
        Point(
            at=NOW - MINUTE * (points - 1 - place),
            images=40 + 13 * (place * 7 % 5),
            confidence=0.94 - 0.8 * drop * share,
            agreement=0.95 - drop * share if watched else None,
            estimate=0.93 - drop * share if watched else None,
            measured=0.925 - 1.1 * drop * share if labels and place % 20 > 3 else None,
        )
        for place, share in enumerate(shares)
    )


def watched(domain: str = "photo", *, drop: float = 0.0, **changes: Any) -> DomainStatus:
    """A domain with everything that can be known."""
    value = 0.93 - drop
    fields = {
        "domain": domain,
        "images": 48_210,
        "images_in_window": 3_204,
        "confidence": 0.94 - 0.8 * drop,
        "agreement": 0.95 - drop,
        "foreign": 0.05 + drop,
        "estimates": (
            Estimate(method="atc_mc", value=value, low=value - 0.01, high=value + 0.01),
            Estimate(method="confidence", value=value + 0.02, low=value + 0.01, high=value + 0.03),
            Estimate(
                method="aline_d",
                value=value - 0.1,
                low=value - 0.2,
                high=value,
                trusted=False,
                why="R² of the agreement line is 0.41, under 0.95",
            ),
        ),
        "headline": Headline(value=value, low=value - 0.01, high=value + 0.03, spread=0.04),
        "line": Line(r2=0.41, slope=1.32, pairs=6, used=False, why="R² is under 0.95"),
        "measured": Measured(
            labels=212,
            accuracy=value - 0.03,
            low=value - 0.07,
            high=value + 0.02,
            prediction_powered=PredictionPowered(
                value=value - 0.01, low=value - 0.03, high=value + 0.02, labels=180.0
            ),
        ),
        "members": tuple(
            MemberStatus(
                member=name,
                agreement=0.95 - drop,
                reference=0.92,
                estimate=value - 0.02,
                labels=212,
                measured=value - 0.03,
            )
            for name in ("lora", "ssf", "0.5*full")
        ),
        "evidence": {"disagreement": 0.3, "low_score": -2.1, "unsure": -0.4},
        "threshold": 2.6,
        "history": history(drop=drop),
    }
    return DomainStatus(**{**fields, **changes})


def alarming(route: str = "birds/best", domain: str = "sketch") -> DomainStatus:
    """A domain whose images have changed."""
    raised = Alarm(
        route=route,
        domain=domain,
        kind="shift",
        indicator="disagreement",
        e_value=4.3,
        threshold=2.6,
        images=840,
        first_seen=NOW - 20 * MINUTE,
    )
    headline = Headline(
        value=0.71, low=0.58, high=0.8, spread=0.22, trusted=False, why="the methods differ by 22 points"
    )
    evidence = {"disagreement": 4.3, "low_score": 3.1, "unsure": 2.8}
    return watched(domain, drop=0.22, alarms=(raised,), headline=headline, evidence=evidence)


def unlabelled(domain: str = "unset") -> DomainStatus:
    """A domain for which nobody sends labels."""
    return watched(domain, measured=None, members=(), history=history(labels=False))


def status(*routes: RouteStatus, problems: tuple[str, ...] = (), source: str = "this server") -> Status:
    return Status(
        at=NOW, source=source, problems=problems, window_s=3600, label_window_s=86_400, routes=routes
    )


def full() -> Status:
    """Two routes: one watched in three domains, one without a reference."""
    quiet = DomainStatus(domain="cartoon", images=0, images_in_window=0)
    raw = DomainStatus(
        domain="photo",
        images=120,
        images_in_window=120,
        confidence=0.8,
        history=history(points=5, watched=False),
    )
    return status(
        RouteStatus(
            route="birds/best", reference=REFERENCE, domains=(watched(), alarming(), unlabelled(), quiet)
        ),
        RouteStatus(route="birds/lora", problem="it has no reference", domains=(raw,)),
        RouteStatus(route="adhoc", problem="it has no reference", domains=(raw,)),
        RouteStatus(route="birds/next", problem="it has no reference"),
    )


def hostile(name: str) -> Status:
    """Everything that is text is one name."""
    domain = alarming(name, name)
    alarm = domain.alarms[0].model_copy(update={"indicator": name})
    domain = domain.model_copy(
        update={
            "alarms": (alarm,),
            "evidence": {name: 3.0},
            "estimates": (Estimate(method=name, value=0.5, low=0.4, high=0.6, trusted=False, why=name),),
            "line": Line(r2=0.5, slope=1.0, pairs=3, used=False, why=name),
            "headline": Headline(value=0.5, low=0.4, high=0.6, spread=0.1, trusted=False, why=name),
            "members": (MemberStatus(member=name),),
        }
    )
    reference = REFERENCE.model_copy(update={"data": name, "digest": name})
    return status(
        RouteStatus(
            route=f"{name}/{name}",
            problem=name,
            domains=(domain, DomainStatus(domain=f"{name}2", images=0, images_in_window=0)),
        ),
        RouteStatus(route=name, reference=reference, problem=name, domains=(domain,)),
        RouteStatus(route=f"task/{name}", problem=name),
        problems=(name,),
        source=name,
    )
