"""What the metrics of labels must show, recounted from the rows of the database by nobody's code but this."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

from prometheus_client import Metric

Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]

ROWS = """
SELECT l.id, l.nonce, l.source, l.revision, l.truth, l.received_at, p.route, p.domain, p.predicted,
       p.confidence, p.inclusion, p.members, p.votes, p.created_at
FROM corolla_labels l JOIN corolla_predictions p ON p.nonce = l.nonce ORDER BY l.id
"""
COUNTED = (
    "corolla_feedback_total",
    "corolla_feedback_corrections_total",
    "corolla_feedback_unknown_total",
    "corolla_member_feedback_total",
    "corolla_feedback_pair_total",
    "corolla_feedback_bin_total",
    "corolla_feedback_bin_correct_total",
    "corolla_feedback_bin_confidence_ratio_total",
    "corolla_feedback_source_total",
    "corolla_feedback_moment_total",
    "corolla_feedback_delay_seconds_count",
    "corolla_feedback_delay_seconds_sum",
)
"""What is recounted from rows; how many labels were sent, only whoever sent them knows."""
_RANKS = ("implicit", "downstream", "user", "gold")


def recounted(rows: Iterable[Mapping[str, Any]]) -> Numbers:
    """The numbers, without zeros, of the rows of `ROWS`, in their order."""
    numbers: Numbers = defaultdict(float)

    def add(name: str, amount: float = 1, **labels: str) -> None:
        numbers[f"corolla_feedback_{name}", frozenset(labels.items())] += amount

    stands: dict[str, tuple[int, int, bool]] = {}
    outcome: dict[str, str] = {}
    scored: set[str] = set()
    sources: set[tuple[str, str]] = set()
    for row in rows:
        nonce, truth = row["nonce"], json.loads(row["truth"])
        place = {"route": row["route"], "domain": row["domain"]}
        if (nonce, row["source"]) not in sources:
            sources.add((nonce, row["source"]))
            add("source_total", route=row["route"], source=row["source"])
        if nonce not in stands:
            add("delay_seconds_count", route=row["route"])
            delay = max(row["received_at"] - row["created_at"], 0.0)
            add("delay_seconds_sum", delay, route=row["route"])
            if not truth:
                add("unknown_total", **place)
        weight = (_RANKS.index(row["source"]), row["revision"], bool(truth))
        if nonce in stands and weight <= stands[nonce]:
            continue
        now = ("correct" if row["predicted"] in truth else "incorrect") if truth else "unknown"
        then, outcome[nonce], stands[nonce] = outcome.get(nonce), now, weight
        if nonce in scored:
            if then not in (None, now):
                add("corrections_total", **place, **{"from": str(then), "to": now})
        elif truth:
            scored.add(nonce)
            _first(numbers, add, row, truth, place)
    return {key: value for key, value in numbers.items() if value}


def _first(
    numbers: Numbers, add: Any, row: Mapping[str, Any], truth: list[int], place: dict[str, str]
) -> None:
    correct = row["predicted"] in truth
    add("total", **place, outcome="correct" if correct else "incorrect")
    bin_ = {**place, "bin": str(min(int(row["confidence"] * 10), 9))}
    add("bin_total", **bin_)
    add("bin_correct_total", int(correct), **bin_)
    add("bin_confidence_ratio_total", row["confidence"], **bin_)
    if row["inclusion"]:
        w, d = 1 / row["inclusion"], correct - row["confidence"]
        moments = {"w": w, "w2": w * w, "wrong": 0 if correct else w, "w2_square": w * w * d * d}
        moments |= {"up": w * d, "w2_up": w * w * d} if d > 0 else {"down": -w * d, "w2_down": -w * w * d}
        for moment, amount in moments.items():
            add("moment_total", amount, **place, moment=moment)
    votes = zip(json.loads(row["members"]), json.loads(row["votes"]), strict=False)
    right = [(member, vote in truth) for member, vote in votes]
    for member, good in right:
        labels = {**place, "member": member, "outcome": "correct" if good else "incorrect"}
        numbers["corolla_member_feedback_total", frozenset(labels.items())] += 1
    for pair in combinations(right, 2):
        (one, first), (other, second) = sorted(pair)
        shape = (
            ("both_correct" if first else "both_wrong")
            if first == second
            else ("first_only" if first else "second_only")
        )
        add("pair_total", route=row["route"], pair=f"{one}:{other}", outcome=shape)


def shown(*scrapes: Iterable[Metric], names: Iterable[str] = COUNTED) -> Numbers:
    """The same numbers as replicas show them, summed and without zeros."""
    numbers: Numbers = defaultdict(float)
    for scrape in scrapes:
        for sample in (sample for family in scrape for sample in family.samples):
            if sample.name in set(names):
                numbers[sample.name, frozenset(sample.labels.items())] += sample.value
    return {key: value for key, value in numbers.items() if value}
