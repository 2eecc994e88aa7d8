"""What a route did on labelled images that nothing was trained on: what monitoring compares its traffic with.

Everything in it follows from the members' logits, the labels and the frozen features of one set of images.
docs/store-format.md shows one.
"""

import base64
import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Annotated, Self

import numpy as np
from pydantic import AwareDatetime, Field, FiniteFloat, JsonValue, model_validator

from model_store.format.canonical import canonical_json
from model_store.format.records import ComputedIn, Digest, Name, Record, StoredRecord, Temperature
from model_store.routes import alpha as alphas
from petl_vit.cascade import Score, Stage
from petl_vit.combine import Combine
from petl_vit.confidence import BINS, EDGES
from petl_vit.errors import Corrupt
from petl_vit.estimators import LOW_SCORE
from petl_vit.foreign import Plane

FEWEST = 50
"""Images below which no estimate is made of a reference."""

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class ReferenceTerm(Record):
    """One adapter version, `task/name:version`, or `task/base`, and its alpha, or that of every block."""

    adapter: str
    digest: Digest
    alpha: FiniteFloat | Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]


class ReferenceMember(Record):
    """One model in weight space.

    Attributes:
        label: Its name in metrics, which has no versions.
    """

    label: str
    weight: Annotated[FiniteFloat, Field(gt=0)]
    terms: Annotated[tuple[ReferenceTerm, ...], Field(min_length=1)]


class ReferenceCascade(Record):
    """When a cascade's answer is settled: as in a named route."""

    score: Score
    order: tuple[Count, ...]
    stages: tuple[Stage, ...]


class ReferenceRoute(Record):
    """What answered.

    Attributes:
        digest: Of what it computes: see `identity`.
        name: Of the named route, or of the adapter; empty where it was measured by its text.
        text: The route with its versions.
        task_digest: Of the task whose classes it answers.
    """

    digest: Digest
    task: Name
    name: str
    text: str
    combine: Combine
    temperature: Temperature
    task_digest: Digest
    members: Annotated[tuple[ReferenceMember, ...], Field(min_length=1)]
    cascade: ReferenceCascade | None = None

    @classmethod
    def over(
        cls,
        *,
        task: str,
        name: str,
        text: str,
        combine: Combine,
        temperature: float,
        task_digest: str,
        members: Sequence[ReferenceMember],
        cascade: ReferenceCascade | None = None,
    ) -> Self:
        """A route with the digest that it has."""
        digest = identity(combine, temperature, task_digest, members, cascade)
        return cls(
            digest=digest,
            task=task,
            name=name,
            text=text,
            combine=combine,
            temperature=temperature,
            task_digest=task_digest,
            members=tuple(members),
            cascade=cascade,
        )

    @model_validator(mode="after")
    def _check_digest(self) -> Self:
        own = identity(self.combine, self.temperature, self.task_digest, self.members, self.cascade)
        if self.digest != own:
            raise ValueError("route.digest: it is not that of the route's members, weights and temperature")
        return self


def identity(
    combine: Combine,
    temperature: float,
    task_digest: str,
    members: Sequence[ReferenceMember],
    cascade: ReferenceCascade | None = None,
) -> str:
    """The digest of what a route computes: the sha256 of canonical JSON; names and versions do not count."""
    document: dict[str, JsonValue] = {
        "combine": str(combine),
        "temperature": float(temperature),
        "task_digest": task_digest,
        "members": [
            {
                "weight": float(member.weight),
                "terms": [{"digest": t.digest, "alpha": alphas.document(t.alpha)} for t in member.terms],
            }
            for member in members
        ],
    }
    if cascade is not None:
        document["cascade"] = cascade.model_dump(mode="json")
    return hashlib.sha256(canonical_json(document)).hexdigest()


class ReferenceData(Record):
    """The images: where they come from, for people, the digest of their content, and how many they are."""

    name: str
    digest: Digest
    images: Annotated[int, Field(ge=1)]


class Pair(Record):
    """Two members, by their places, and the images on which they agree or are right."""

    first: Count
    second: Count
    agreements: Count
    both_correct: Count
    first_only: Count
    second_only: Count
    both_wrong: Count


class ReferenceConfidence(Record):
    """How sure the answers were.

    Attributes:
        mean: Mean probability of the answer.
        edges, cumulative: The share of the images whose confidence does not exceed each edge.
        images, correct, total: Of each bin (0 is [0, 0.1), 9 is [0.9, 1]): how many images there are, how
            many are answered rightly, and the sum of their confidences.
    """

    mean: Share
    edges: tuple[Share, ...]
    cumulative: tuple[Share, ...]
    images: Annotated[tuple[Count, ...], Field(min_length=BINS, max_length=BINS)]
    correct: Annotated[tuple[Count, ...], Field(min_length=BINS, max_length=BINS)]
    total: Annotated[tuple[FiniteFloat, ...], Field(min_length=BINS, max_length=BINS)]

    @property
    def shares(self) -> tuple[float, ...]:
        """Of all images, in each bin."""
        return tuple(count / sum(self.images) for count in self.images)


class ReferenceThreshold(Record):
    """The least score that counts as a right answer, for one way of scoring.

    Attributes:
        threshold: None where no number tells: see `Reference.threshold`.
        estimate: The share of these images that reach it: the accuracy, but for ties.
    """

    threshold: FiniteFloat | None
    estimate: Share


class RandomFeatureMean(Record):
    """The mean of random Fourier features, which `petl_vit.random_features` computes from a seed."""

    seed: Count
    bandwidth: Annotated[FiniteFloat, Field(gt=0)]
    mean: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]


class ReferenceFeatures(Record):
    """The frozen backbone's features of the images.

    Attributes:
        mean, variance: Of each of the D numbers.
        directions: How many directions the plane of features of length 1 has, R.
        plane_f16: [R + 1, D], its centre and its directions, as little-endian float16 in base64; None where
            features were measured before there were planes.
        distance: What 95 % of the images do not exceed in `petl_vit.foreign.distance`.
        beyond: How many of the images do; None where that was not counted.
    """

    mean: Annotated[tuple[FiniteFloat, ...], Field(min_length=1)]
    variance: Annotated[tuple[Annotated[FiniteFloat, Field(ge=0)], ...], Field(min_length=1)]
    directions: Count = 0
    plane_f16: str | None = None
    distance: Annotated[FiniteFloat, Field(ge=0)]
    beyond: Count | None = None
    random: RandomFeatureMean

    @cached_property
    def plane(self) -> Plane | None:
        """Where the features of usual images lie, once they have length 1."""
        if self.plane_f16 is None:
            return None
        numbers = np.frombuffer(base64.b64decode(self.plane_f16, validate=True), dtype="<f2")
        rows = numbers.astype(np.float64).reshape(self.directions + 1, len(self.mean))
        return Plane(centre=rows[0], directions=rows[1:])

    @classmethod
    def packed(cls, plane: Plane) -> str:
        """`plane_f16` of a plane."""
        rows = np.concatenate([plane.centre[None], plane.directions]).astype("<f2")
        return base64.b64encode(rows.tobytes()).decode()

    @model_validator(mode="after")
    def _check_plane(self) -> Self:
        try:
            plane = self.plane
        except ValueError as error:
            raise ValueError(
                f"features.plane_f16: it is not base64 of {self.directions + 1} x {len(self.mean)} float16"
            ) from error
        if plane is not None and not (
            np.isfinite(plane.centre).all() and np.isfinite(plane.directions).all()
        ):
            raise ValueError("features.plane_f16: a number is not finite")
        return self


class Reference(StoredRecord):
    """A route on a set of labelled images: references/<route digest>/<data digest>.json.

    Attributes:
        classes: In the order of the answer.
        precision: What it was computed in.
        images: The images that count: those of the set less `invalid`, whose logits were not finite.
        accuracy: Share of right answers; `member_accuracies` of each member's.
        agreement: Mean share of the members that vote for the answer.
        entropy, mutual_information: Means, nats.
        pairs: Every two members, the first before the second.
        atc: By the names of `petl_vit.estimators.SCORES`.
        unanimous: The images of which all members answer the same; None where that was not counted.
        base_overrides: The images answered otherwise than by the task's base head alone; None where that was
            not counted.
        true, predicted: How many images of each class there are, and how many answers.
        confusion: Triples of a true class, an answered class and a number of images above 0.
        features: None where they were not computed.
        no_estimate: Why no estimate should be made from it; empty where one may be.
    """

    route: ReferenceRoute
    data: ReferenceData
    classes: Annotated[tuple[str, ...], Field(min_length=2)]
    precision: ComputedIn
    made_at: AwareDatetime
    versions: dict[str, str]
    images: Annotated[int, Field(ge=1)]
    invalid: Count = 0
    accuracy: Share
    member_accuracies: tuple[Share, ...]
    agreement: Share
    entropy: Annotated[FiniteFloat, Field(ge=0)]
    mutual_information: Annotated[FiniteFloat, Field(ge=0)]
    pairs: tuple[Pair, ...]
    confidence: ReferenceConfidence
    atc: dict[str, ReferenceThreshold]
    unanimous: Count | None = None
    base_overrides: Count | None = None
    true: tuple[Count, ...]
    predicted: tuple[Count, ...]
    confusion: tuple[tuple[Count, Count, Annotated[int, Field(ge=1)]], ...]
    features: ReferenceFeatures | None = None
    no_estimate: str = ""

    def threshold(self, score: str) -> float:
        """The least score that counts as right: -inf where all answers were right, inf where none was."""
        found = self.atc[score].threshold
        if found is not None:
            return found
        return -math.inf if self.accuracy == 1 else math.inf

    @property
    def estimates(self) -> dict[str, float]:
        """The accuracy that each estimate of single answers makes of these images, by its name."""
        scores = {name: one.estimate for name, one in self.atc.items()}
        return {"confidence": self.confidence.mean, "vote": self.agreement} | scores

    @property
    def rates(self) -> dict[str, float]:
        """The mean of each number of an image that alarms watch, all within [0, 1]; those that are known.

        `disagreement` is the share of the pairs of members that differ, `unsure` what confidence leaves to 1,
        `low_score` whether the score is below its threshold, `foreign` whether the features are beyond the
        distance, `override` whether the answer is not the base head's, `error` whether it is wrong.
        """
        rates = {"error": 1 - self.accuracy, "unsure": 1 - self.confidence.mean}
        if self.pairs:
            agreements = sum(pair.agreements for pair in self.pairs)
            rates["disagreement"] = 1 - agreements / (len(self.pairs) * self.images)
        if LOW_SCORE in self.atc:
            rates["low_score"] = 1 - self.atc[LOW_SCORE].estimate
        if self.features is not None and self.features.beyond is not None:
            rates["foreign"] = self.features.beyond / self.images
        if self.base_overrides is not None:
            rates["override"] = self.base_overrides / self.images
        return rates

    def encode(self) -> bytes:
        """As `StoredRecord.encode`, in one line: most of it is numbers."""
        return (self.model_dump_json() + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, key: str) -> Self:
        """As `StoredRecord.parse`; its parts also have to agree with each other."""
        reference = super().parse(data, key)
        problem = next(reference._disagreements(), None)
        if problem is not None:
            raise Corrupt(problem, field=key, remedy="remove the file and measure the route again")
        return reference

    def _disagreements(self) -> Iterator[str]:
        members, classes, n = len(self.route.members), len(self.classes), self.images
        pairs = [(i, j) for i in range(members) for j in range(i + 1, members)]
        sizes = {
            "member_accuracies": (len(self.member_accuracies), members),
            "true": (len(self.true), classes),
            "predicted": (len(self.predicted), classes),
        }
        for name, (length, expected) in sizes.items():
            if length != expected:
                yield f"field {name!r}: {length} numbers, and {expected} are due"
        if n + self.invalid != self.data.images:
            yield f"field 'images': {n} and {self.invalid} invalid are not the {self.data.images} of the data"
        if [(pair.first, pair.second) for pair in self.pairs] != pairs:
            yield "field 'pairs': they are not every two members in order"
        for pair in self.pairs:
            if pair.both_correct + pair.first_only + pair.second_only + pair.both_wrong != n:
                yield f"field 'pairs': {pair.first} and {pair.second} do not count {n} images"
        for name, count in self._counted():
            if count is not None and count > n:
                yield f"field {name!r}: {count} of {n} images"
        yield from self._confidence_disagreements()
        yield from self._confusion_disagreements()

    def _counted(self) -> Iterator[tuple[str, int | None]]:
        yield "unanimous", self.unanimous
        yield "base_overrides", self.base_overrides
        yield "features.beyond", None if self.features is None else self.features.beyond

    def _confidence_disagreements(self) -> Iterator[str]:
        confidence = self.confidence
        if confidence.edges != EDGES:
            yield "field 'confidence.edges': they are not those of the histogram"
        if len(confidence.cumulative) != len(confidence.edges) or confidence.cumulative[-1] != 1:
            yield "field 'confidence.cumulative': it is not one share for each edge, the last of them 1"
        if list(confidence.cumulative) != sorted(confidence.cumulative):
            yield "field 'confidence.cumulative': it falls"
        if sum(confidence.images) != self.images:
            yield f"field 'confidence.images': they do not count {self.images} images"

    def _confusion_disagreements(self) -> Iterator[str]:
        classes = len(self.classes)
        rows, columns = [0] * classes, [0] * classes
        for truth, answer, count in self.confusion:
            if truth >= classes or answer >= classes:
                yield f"field 'confusion': there is no class {max(truth, answer)}"
                return
            rows[truth] += count
            columns[answer] += count
        if tuple(rows) != self.true or tuple(columns) != self.predicted or sum(rows) != self.images:
            yield "field 'confusion': it does not add up to 'true', 'predicted' and 'images'"
