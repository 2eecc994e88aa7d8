"""What each method says about the accuracy of a window's answers, from no label of them.

All are sums over images that servers count, or a small fit to such sums. Which of them to believe when is in
docs/monitoring.md; none is right for every shift.
"""

from collections.abc import Sequence
from statistics import median

import numpy as np

from serving.monitor import agreement_line
from serving.monitor.agreement_line import Pair
from serving.monitor.confusion import Confusion
from serving.monitor.intervals import Range, around, negative, share, wilson
from serving.monitor.look import ReferenceValues
from serving.monitor.prior_shift import prior_shift
from serving.monitor.samples import Counts, Place
from serving.monitor.status import Alarm, Estimate, Headline, Line

METHODS = ("atc_mc", "atc_ne", "confidence", "doc", "vote", "aline_s", "aline_d", "slope1", "bbse")
"""The methods, in the order in which they are shown.

`atc_mc` and `atc_ne`: the share of answers whose score reaches the reference's threshold; the score is the
confidence or the negative entropy. `confidence`: the mean calibrated confidence. `doc`: the reference's
accuracy less the fall of confidence. `vote`: the mean share of members that vote for the answer, less what
that is too high on the reference. `aline_s`, `aline_d`, `slope1`: see `agreement_line`. `bbse`: see
`prior_shift`.
"""

FEWEST_IMAGES = 100
"""Images of a window that an estimate needs to be trusted."""
MOST_OFF = 0.03
"""How far a method may be off the reference's own accuracy to be trusted elsewhere."""
MOST_SPREAD = 0.15
"""Spread of the estimates beyond which their median is not trusted."""
FOREIGN_TIMES = 3
"""Times the reference's share of foreign images beyond which the median is not trusted."""


class Estimator:
    """The counts of a window of one route in one domain, beside its reference.

    Args:
        confusion: How the reference's answers are distributed; None where that is not known.
    """

    def __init__(
        self, counts: Counts, place: Place, reference: ReferenceValues, confusion: Confusion | None = None
    ) -> None:
        self._counts, self._place, self._reference = counts, place, reference
        self._confusion = confusion
        self.images = counts.total("corolla_predictions_total", *place)
        self._accuracy = share(reference.accuracy)
        self._own = wilson(self._accuracy * reference.images, reference.images)
        self._pairs = self._compared()
        self.line = agreement_line.fit(self._pairs, reference.images)

    def estimates(self) -> tuple[Estimate, ...]:
        """One of each method for which there are counts, in the order of `METHODS`."""
        found = [
            self._atc("atc_mc"),
            self._atc("atc_ne"),
            self._mean_confidence(),
            self._offset("doc", "confidence", self._reference.confidence),
            self._offset("vote", "vote", self._reference.estimates.get("vote", self._reference.agreement)),
            *self._lines(),
            self._slope1(),
            self._bbse(),
        ]
        return tuple(estimate for estimate in found if estimate is not None)

    def line_status(self) -> Line | None:
        """The agreement line; None where none can be fitted."""
        if self.line is None:
            return None
        why = self.line.why_not
        return Line(
            r2=share(self.line.r2), slope=self.line.slope, pairs=len(self.line.pairs), used=not why, why=why
        )

    def member_accuracy(self, member: str) -> float | None:
        """The estimate of a member's accuracy: by the line where it may be used, else by slope 1."""
        then = self._reference.member_accuracies.get(member)
        if then is None:
            return None
        if self.line is not None and not self.line.why_not:
            return agreement_line.on_the_line(self.line, then, self._reference.images)[0]
        own = [pair for pair in self._pairs if member in (pair.first, pair.second)]
        moved = agreement_line.shifted(own, then, self._reference.images)
        return None if moved is None else moved[0]

    def foreign(self) -> tuple[float, float] | None:
        """How many images unlike the reference's there are, of how many that were looked at."""
        looked = self._counts.total("corolla_feature_distance_ratio_count", *self._place)
        if looked < 1:
            return None
        return self._counts.total("corolla_foreign_inputs_total", *self._place), looked

    # Methods that are a mean over images

    def _mean(self, method: str) -> tuple[float, float] | None:
        """The mean that a method counts, and of how many images."""
        images = self._counts.total("corolla_estimated_predictions_total", *self._place, method=method)
        if images < 1:
            return None
        total = self._counts.total("corolla_estimated_correct_total", *self._place, method=method)
        return share(total / images), images

    def _atc(self, method: str) -> Estimate | None:
        mean = self._mean(method)
        if mean is None:
            return None
        value, images = mean
        interval = around(value, (value, wilson(value * images, images)), (self._accuracy, self._own))
        why = self._too_few(images)
        if self._accuracy in (0, 1):
            some = "right" if self._accuracy else "wrong"
            why = f"every answer on the reference is {some}, so that no threshold tells"
        return _estimate(method, value, interval, why or self._off(self._reference.estimates.get(method)))

    def _mean_confidence(self) -> Estimate | None:
        mean = self._mean("confidence")
        if mean is None:
            return None
        value, images = mean
        interval = wilson(value * images, images)
        why = self._too_few(images) or self._off(self._reference.confidence)
        return _estimate("confidence", value, interval, why)

    def _offset(self, name: str, method: str, then: float | None) -> Estimate | None:
        """The reference's accuracy, less what a mean fell by since; `then` is that mean on the reference."""
        mean = self._mean(method)
        if mean is None or then is None:
            return None
        now, images = mean
        value = share(self._accuracy - then + now)
        before = (then, wilson(then * self._reference.images, self._reference.images))
        # On one set of images accuracy and the mean are nearly in step: the wider of the two covers both.
        own = max((self._accuracy, self._own), negative(*before), key=lambda part: part[1][1] - part[1][0])
        interval = around(value, (now, wilson(now * images, images)), own)
        return _estimate(name, value, interval, self._too_few(images), raw=now)

    def _too_few(self, images: float) -> str:
        return "" if images >= FEWEST_IMAGES else f"{images:.0f} images; {FEWEST_IMAGES} are needed"

    def _off(self, said: float | None) -> str:
        """Why a method is not believed that is wrong on the reference itself."""
        if said is None or abs(said - self._accuracy) <= MOST_OFF:
            return ""
        return f"it says {said:.1%} of the reference, whose accuracy is {self._accuracy:.1%}"

    # Methods that need all members

    def _compared(self) -> list[Pair]:
        agreed = self._counts.by("pair", "corolla_ensemble_pair_agreements_total", *self._place)
        compared = self._counts.by("pair", "corolla_ensemble_pair_comparisons_total", *self._place)
        pairs = []
        for name, then in sorted(self._reference.pair_agreements.items()):
            first, _, second = name.partition(":")
            images = compared.get(name, 0.0)
            if images >= 1:
                now = share(agreed.get(name, 0.0) / images)
                pairs.append(
                    Pair(first=first, second=second, reference=share(then), window=now, images=images)
                )
        return pairs

    def _lines(self) -> Sequence[Estimate]:
        line, members = self.line, self._reference.member_accuracies
        if line is None:
            return ()
        of = self._reference.images
        found = [_estimate("aline_s", *agreement_line.on_the_line(line, self._accuracy, of), line.why_not)]
        if {name for pair in line.pairs for name in (pair.first, pair.second)} <= members.keys():
            carried = agreement_line.carried(line, members, self._accuracy, of)
            found.append(_estimate("aline_d", *carried, line.why_not))
        return found

    def _slope1(self) -> Estimate | None:
        moved = agreement_line.shifted(self._pairs, self._accuracy, self._reference.images)
        if moved is None:
            return None
        images = min(pair.images for pair in self._pairs)
        return _estimate("slope1", *moved, self._too_few(images))

    # From the confusion matrix

    def _bbse(self) -> Estimate | None:
        known = self._confusion
        if known is None or self.images < 1:
            return None
        route = self._place[0]
        answered = self._counts.by("class", "corolla_class_predictions_total", route)
        images = sum(answered.get(name, 0.0) for name in known.classes)
        if abs(images - self.images) > 0.01 * self.images:
            return None  # other domains have images too, and classes are not counted by domain
        found = prior_shift(known.images, np.array([answered.get(name, 0.0) for name in known.classes]))
        if isinstance(found, str):
            return None
        why = self._too_few(images) or found.why or self._moved()
        return _estimate("bbse", share(found.accuracy), found.interval, why)

    def _moved(self) -> str:
        """Why other classes' shares are not all that has changed, as far as the confidence tells."""
        mean, then = self._mean("confidence"), self._reference.confidence
        if mean is None or then is None or abs(mean[0] - then) <= MOST_OFF:
            return ""
        return (
            f"confidence moved from {then:.1%} to {mean[0]:.1%}, so more than the classes' shares has changed"
        )


def headline(
    estimates: Sequence[Estimate], foreign: tuple[float, float] | None, usual: float | None
) -> Headline | None:
    """The median of the trusted estimates; None where there is none.

    Args:
        foreign: As `Estimator.foreign`.
        usual: The share of such images in the reference.
    """
    trusted = [estimate for estimate in estimates if estimate.trusted]
    if not trusted:
        return None
    values = [estimate.value for estimate in trusted]
    spread = max(values) - min(values)
    why = ""
    if spread > MOST_SPREAD:
        why = f"the estimates differ by {spread * 100:.0f} points"
    elif foreign is not None and usual and wilson(*foreign)[0] > FOREIGN_TIMES * usual:
        why = f"{foreign[0] / foreign[1]:.0%} of the images are unlike the reference's; {usual:.0%} is usual"
    return Headline(
        value=median(values),
        low=min(estimate.low for estimate in trusted),
        high=max(estimate.high for estimate in trusted),
        spread=spread,
        trusted=not why,
        why=why,
    )


def doubted(headline: Headline | None, alarms: Sequence[Alarm]) -> Headline | None:
    """A headline that is not trusted while there is proof that the images are not like the reference's.

    However well the estimates agree then, they may all be far off: docs/monitoring.md, on photographs.
    """
    if headline is None or all(alarm.kind != "shift" for alarm in alarms):
        return headline
    why = headline.why or "an alarm says that the images are not like the reference's"
    return headline.model_copy(update={"trusted": False, "why": why})


def _estimate(method: str, value: float, interval: Range, why: str, *, raw: float | None = None) -> Estimate:
    low, high = interval
    return Estimate(
        method=method,
        value=share(value),
        low=min(share(low), share(value)),
        high=max(share(high), share(value)),
        raw=raw,
        trusted=not why,
        why=why,
    )
