"""References of two images, for what only stores, finds and shows references."""

from datetime import UTC, datetime

from model_store.format.reference import (
    Pair,
    RandomFeatureMean,
    Reference,
    ReferenceConfidence,
    ReferenceData,
    ReferenceFeatures,
    ReferenceMember,
    ReferenceRoute,
    ReferenceTerm,
    ReferenceThreshold,
)
from petl_vit.combine import Combine
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


def usable_reference(*members: str, **changes: object) -> Reference:
    """Of an ensemble with members of these names; else as `usable_of`."""
    route = ReferenceRoute.over(
        task="digits",
        name="all",
        text=", ".join(members),
        combine=Combine.MEAN,
        temperature=1.5,
        task_digest="1" * 64,
        members=[
            ReferenceMember(
                label=name,
                weight=1.0,
                terms=(ReferenceTerm(adapter=f"digits/{name}:1", digest=f"{number:064}", alpha=1.0),),
            )
            for number, name in enumerate(members)
        ],
    )
    return usable_of(route, **changes)


def usable_of(route: ReferenceRoute, **changes: object) -> Reference:
    """One that estimates may rest on: any two members agree on one image, one is foreign, one overridden."""
    count = len(route.members)
    pairs = tuple(
        Pair(first=i, second=j, agreements=1, both_correct=1, first_only=0, second_only=0, both_wrong=1)
        for i in range(count)
        for j in range(i + 1, count)
    )
    features = ReferenceFeatures(
        mean=(0.0,),
        variance=(1.0,),
        distance=2.0,
        beyond=1,
        random=RandomFeatureMean(seed=0, bandwidth=1.0, mean=(0.1,)),
    )
    fields: dict[str, object] = {
        "pairs": pairs,
        "features": features,
        "base_overrides": 1,
        "unanimous": 1 if pairs else 2,
        "no_estimate": "",
    }
    return Reference.of(**(dict(reference_of(route)) | fields | changes))
