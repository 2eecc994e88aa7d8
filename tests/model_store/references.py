"""A reference of two images and one member, for what only stores and finds references."""

from datetime import UTC, datetime

from model_store.format.reference import (
    Reference,
    ReferenceConfidence,
    ReferenceData,
    ReferenceRoute,
    ReferenceThreshold,
)
from petl_vit.confidence import EDGES
from petl_vit.precision import Precision


def reference_of(route: ReferenceRoute, *, data: str = "d" * 64, minute: int = 0) -> Reference:
    """One of two images is right, at a confidence of 1; the other is wrong, at 0.55."""
    return Reference(
        route=route,
        data=ReferenceData(name="photos/val", digest=data, images=2),
        classes=("zero", "one"),
        precision=Precision.FP32,
        made_at=datetime(2026, 1, 2, 3, minute, tzinfo=UTC),
        versions={"corolla": "0"},
        images=2,
        accuracy=0.5,
        member_accuracies=(0.5,) * len(route.members),
        agreement=1,
        entropy=0.3,
        mutual_information=0,
        pairs=(),
        confidence=ReferenceConfidence(
            mean=0.775,
            edges=EDGES,
            cumulative=tuple(0.0 if edge < 0.55 else 0.5 if edge < 1 else 1.0 for edge in EDGES),
            images=(0, 0, 0, 0, 0, 1, 0, 0, 0, 1),
            correct=(0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
            total=(0, 0, 0, 0, 0, 0.55, 0, 0, 0, 1),
        ),
        atc={"atc_mc": ReferenceThreshold(threshold=-0.1, estimate=0.5)},
        true=(1, 1),
        predicted=(2, 0),
        confusion=((0, 0, 1), (1, 0, 1)),
        no_estimate="2 images are fewer than 50",
    )
