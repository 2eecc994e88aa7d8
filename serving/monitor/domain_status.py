"""One route in one domain: what the windows say of it."""

from dataclasses import dataclass

from serving.monitor.confusion import Confusion
from serving.monitor.estimates import Estimator, headline
from serving.monitor.intervals import share
from serving.monitor.look import ReferenceValues
from serving.monitor.measured import measured, member_accuracy
from serving.monitor.samples import Counts, Place
from serving.monitor.status import DomainStatus, MemberStatus


@dataclass(frozen=True, kw_only=True)
class Windows:
    """What was counted in the window of images, in that of labels, and in all."""

    images: Counts
    labels: Counts
    all: Counts


def domain_status(
    place: Place, windows: Windows, reference: ReferenceValues | None, confusion: Confusion | None
) -> DomainStatus:
    """All but alarms and history; without a reference only what is seen and measured."""
    counts = windows.images
    foreign = _share(counts, place, "corolla_foreign_inputs_total", "corolla_feature_distance_ratio_count")
    status = DomainStatus(
        domain=place[1],
        images=round(windows.all.total("corolla_predictions_total", *place)),
        images_in_window=round(counts.total("corolla_predictions_total", *place)),
        confidence=_mean(counts, place, "corolla_prediction_confidence_ratio"),
        agreement=_mean(counts, place, "corolla_ensemble_agreement_ratio"),
        foreign=foreign,
        measured=measured(windows.labels, place),
        members=_members(windows, place, None),
    )
    if reference is None or not status.images_in_window:
        return status
    estimator = Estimator(counts, place, reference, confusion)
    estimates = estimator.estimates()
    return status.model_copy(
        update={
            "estimates": estimates,
            "headline": headline(estimates, estimator.foreign(), reference.rates.get("foreign")),
            "line": estimator.line_status(),
            "members": _members(windows, place, (reference, estimator)),
        }
    )


def _mean(counts: Counts, place: Place, histogram: str) -> float | None:
    return _share(counts, place, f"{histogram}_sum", f"{histogram}_count")


def _share(counts: Counts, place: Place, part: str, whole: str) -> float | None:
    total = counts.total(whole, *place)
    return share(counts.total(part, *place) / total) if total > 0 else None


def _members(
    windows: Windows, place: Place, against: tuple[ReferenceValues, Estimator] | None
) -> tuple[MemberStatus, ...]:
    scored = windows.images.by("member", "corolla_member_predictions_total", *place)
    agreed = windows.images.by("member", "corolla_member_vote_agreements_total", *place)
    reference = {} if against is None else against[0].member_accuracies
    members = []
    for member in sorted({*scored, *reference}):
        images = scored.get(member, 0.0)
        labels, accuracy = member_accuracy(windows.labels, place, member)
        members.append(
            MemberStatus(
                member=member,
                agreement=share(agreed.get(member, 0.0) / images) if images else None,
                reference=reference.get(member),
                estimate=None if against is None else against[1].member_accuracy(member),
                labels=labels,
                measured=accuracy,
            )
        )
    return tuple(members)
