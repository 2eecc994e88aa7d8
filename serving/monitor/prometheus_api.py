"""Readings from Prometheus' HTTP API: raw values of every server of a job, now and before."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petl_vit.errors import NotFound, Unreachable, near
from serving.client.token import Bearer
from serving.monitor import http
from serving.monitor.names import LABELS, NAMES
from serving.monitor.samples import Reading, Sample
from serving.monitor.sources import sorted_labels

OLD_S = 300.0
"""A scrape that is older is a problem; Prometheus then shows no values of it."""
_POINTS = 12  # moments in one answer about the past

_Value = tuple[float, str]


class _Found(BaseModel):
    model_config = ConfigDict(extra="ignore")

    metric: dict[str, str]
    value: _Value | None = None
    values: tuple[_Value, ...] = ()


class _Data(BaseModel):
    model_config = ConfigDict(extra="ignore")

    result: tuple[_Found, ...]


class _Answer(BaseModel):
    """What Prometheus answers to a query."""

    model_config = ConfigDict(extra="ignore")

    status: Literal["success"]
    data: _Data
    warnings: Annotated[tuple[str, ...], Field(default=())]


class PrometheusSource:
    """One job of a Prometheus, or of what speaks its API.

    Args:
        url: `http://HOST:PORT`, with the path before `/api/v1` where there is one.
        job: The label of the servers' targets.
        history_s: How far back it reads where nothing else is known; what servers that are older counted
            before that is left out.
        step_s: The time between two moments of the past.
        headers: Of every question, such as `X-Scope-OrgID`.
        bearer: The token that every question shows, if any.
        trust: Of a URL of https; None trusts the system's authorities.

    Raises:
        InvalidInput: It is not a URL.
    """

    def __init__(
        self,
        url: str,
        job: str,
        *,
        history_s: float = 86400.0,
        step_s: float = 300.0,
        headers: Mapping[str, str] | None = None,
        bearer: Bearer | None = None,
        trust: http.Trust | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        base = http.base_url(url, "prometheus")
        self.name, self.job = f"{http.shown(base)}, job {job}", job
        self._base, self._headers = f"{base}/api/v1", dict(headers or {})
        self._bearer, self._trust = bearer, trust
        self._clock, self.step_s = clock, step_s
        self.origin = clock() - history_s
        self._selector = f'{{__name__=~"{"|".join(sorted(NAMES))}",job={json.dumps(job)}}}'

    def check(self) -> None:
        """Sees that Prometheus answers and has the job.

        Raises:
            Unreachable: It does not answer.
            NotFound: It scrapes nothing of that name; names near ones.
        """
        if not self._query(f"up{{job={json.dumps(self.job)}}}"):
            raise self._no_target()

    def _no_target(self) -> NotFound:
        jobs = sorted(one.metric.get("job", "") for one in self._query("count by (job) (up)"))
        remedy = near(self.job, jobs) or f"it has {', '.join(jobs) if jobs else 'no targets'}"
        return NotFound(f"Prometheus has no target of job {self.job!r}", field="job", remedy=remedy)

    def read(self) -> Reading:
        """See `Source`."""
        job = json.dumps(self.job)
        up = self._query(f"up{{job={job}}}")
        scraped = self._query(f"timestamp(up{{job={job}}})")
        found = self._query(self._selector)
        at = max((one.value[0] for one in (*up, *found) if one.value), default=self._clock())
        samples = tuple(sample for one in found if one.value for sample in _samples(one, (one.value,)))
        return Reading(at=at, samples=samples, problems=tuple(self._problems(at, up, scraped, samples)))

    def history(self, since: float) -> Iterator[Reading]:
        """See `Source`. A moment for which Prometheus has nothing is said to be a gap."""
        first = since + self.step_s
        left = max(math.floor((self._clock() - first) / self.step_s) + 1, 0)
        while left:
            moments = [first + number * self.step_s for number in range(min(left, _POINTS))]
            samples: list[list[Sample]] = [[] for _ in moments]
            span = {"start": repr(first), "end": repr(moments[-1]), "step": repr(self.step_s)}
            for one in self._query(self._selector, "query_range", span):
                for sample, (when, _) in zip(_samples(one, one.values), one.values, strict=True):
                    samples[round((when - first) / self.step_s)].append(sample)
            for moment, found in zip(moments, samples, strict=True):
                yield Reading(at=moment, samples=tuple(found))
            first, left = moments[-1] + self.step_s, left - len(moments)

    def _query(
        self, query: str, kind: str = "query", form: Mapping[str, str] | None = None
    ) -> tuple[_Found, ...]:
        url = f"{self._base}/{kind}"
        body = http.read(
            url,
            form={"query": query, **(form or {})},
            headers=self._headers,
            bearer=self._bearer,
            trust=self._trust,
        )
        try:
            return _Answer.model_validate_json(body).data.result
        except ValidationError as error:
            raise Unreachable(
                f"{http.shown(url)} does not answer as Prometheus does",
                remedy="is it the URL of a Prometheus?",
            ) from error

    def _problems(
        self, at: float, up: tuple[_Found, ...], scraped: tuple[_Found, ...], samples: tuple[Sample, ...]
    ) -> Iterator[str]:
        if not up:
            missing = self._no_target()
            yield f"{missing.problem}; {missing.remedy}"
        for one in up:
            if one.value and float(one.value[1]) == 0:
                yield f"Prometheus cannot scrape {instance_of(one.metric)}"
        for one in scraped:
            age = at - float(one.value[1]) if one.value else math.inf
            if age > OLD_S / 2:
                yield f"the last scrape of {instance_of(one.metric)} is {age:.0f} s old"
        if up and not any(sample.name.startswith("corolla_") for sample in samples):
            yield f"the targets of job {self.job!r} have no metrics of Corolla"


def instance_of(labels: Mapping[str, str]) -> str:
    """Which server a series is of: its `instance`, and whatever else Prometheus adds."""
    others = sorted(
        f"{name}={value}"
        for name, value in labels.items()
        if name not in LABELS and name not in ("__name__", "instance", "job")
    )
    return ",".join([labels.get("instance", ""), *others])


def _samples(one: _Found, values: tuple[_Value, ...]) -> Iterator[Sample]:
    instance, labels = instance_of(one.metric), sorted_labels(one.metric)
    for _, value in values:
        yield Sample(name=one.metric["__name__"], instance=instance, labels=labels, value=float(value))
