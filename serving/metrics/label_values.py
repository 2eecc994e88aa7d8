"""Label values of the metrics, bounded whatever clients send.

Routes are the named ones, `adhoc` for any other and `other` beyond `MAX_ROUTES` or `MAX_PLACES`; domains
come from an allow-list; members, pairs and classes exist for named routes only, which are configuration,
classes as `top_classes` bounds them. No image, path or prediction id is ever a label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, permutations

from model_store.names import check_name
from petl_vit.confidence import BINS
from petl_vit.errors import InvalidInput, near
from petl_vit.estimators import SCORES
from petl_vit.signals import METHODS
from serving.metrics.label_requests import REASONS
from serving.metrics.series import Labels

MAX_DOMAINS = 16
_LONGEST = 63  # characters of a name
MAX_ROUTES = 1000
MAX_PLACES = 1000  # a place is a route in a domain: those beyond are counted as the route `other`
ZERO_PLACES = 64  # shown at zero before their first image; a place has about a hundred series
MAX_MEMBERS = 16  # a route with more has no member series
MAX_PAIRED_MEMBERS = 8  # a route with more has no pair series, whose number grows with the square

ADHOC = "adhoc"
OTHER = "other"
UNSET = "unset"
UNKNOWN = "unknown"
ENSEMBLE = "ensemble"
FROZEN = "frozen"
RESERVED_ROUTES = frozenset({ADHOC, OTHER, UNKNOWN})
CONSENSUS = ("unanimous", "majority", "plurality", "tie")
OUTCOMES = ("correct", "incorrect")
PAIR_OUTCOMES = ("both_correct", "both_wrong", "first_only", "second_only")
STATUSES = ("matched", "duplicate", "corrected", "conflict", "late", "invalid_token", "invalid_class")
SOURCES = ("gold", "user", "downstream", "implicit")
MOMENTS = ("w", "w2", "wrong", "up", "down", "w2_up", "w2_down", "w2_square")


class Domains:
    """The allow-list of domains: where images come from, as an operator slices the metrics.

    Attributes:
        listed: Those of the operator, in order.
        names: Every label: these, `other` and `unset`.

    Raises:
        InvalidInput: Too many names, or one that is not a valid name.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        for name in names:
            check_name(name, "domains")
        self.listed = tuple(name for name in dict.fromkeys(names) if name not in (OTHER, UNSET))
        self.names = (*self.listed, OTHER, UNSET)
        if len(self.listed) > MAX_DOMAINS:
            problem = f"{len(self.listed)} domains; at most {MAX_DOMAINS} keep the number of series bounded"
            raise InvalidInput(problem, field="domains", remedy="merge the rare ones: they count as `other`")

    def label(self, text: str) -> str:
        """The label for what a client sent: the name itself, `other`, or `unset` for nothing."""
        if text in self.names:
            return text
        return OTHER if text else UNSET

    def note(self, text: str) -> str:
        """What a client should know of a domain that is counted as `other`; empty for any that is not."""
        if not text or text in self.names:
            return ""
        remedy = _near(text, self.listed) if len(text) <= _LONGEST else None
        if remedy is None:
            remedy = f"there is {', '.join(self.listed)}" if self.listed else "it has none"
            remedy += "; add one with `corolla domains add`"
        return f"the server has no domain {text[:_LONGEST]!r} and counts it as `{OTHER}`; {remedy}"

    def is_new(self, name: str) -> bool:
        """Whether a name can be added; false where it is there.

        Raises:
            InvalidInput: It is not a valid name, or there are as many as there may be.
        """
        if check_name(name, "domain") in self.names:
            return False
        if len(self.listed) >= MAX_DOMAINS:
            raise InvalidInput(
                f"there are {MAX_DOMAINS} domains, the most that keep the number of series bounded",
                field="domain",
                remedy="count it as `other`, or start the server with other --domains",
            )
        return True

    def add(self, name: str) -> None:
        """Adds a name that is new."""
        self.listed = (*self.listed, name)
        self.names = (*self.listed, OTHER, UNSET)


@lru_cache(maxsize=256)  # the clients that misspell a domain misspell it in every request
def _near(text: str, listed: tuple[str, ...]) -> str | None:
    return near(text.lower(), listed)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteLabels:
    """The label values of one route in one domain, made once because every image needs them.

    Attributes:
        base: Route and domain.
        consensus: By the shape of the vote.
        bins: By confidence.
        methods: By how right answers are expected.
        members: In the order of the route's members.
        pairs: Two members' positions and their labels.
    """

    base: Labels
    consensus: Mapping[str, Labels]
    bins: tuple[Labels, ...]
    methods: Mapping[str, Labels]
    members: tuple[Labels, ...]
    pairs: tuple[tuple[int, int, Labels], ...]

    @classmethod
    def of(cls, route: str, domain: str, members: Sequence[str]) -> "RouteLabels":
        """The label values for members as `member_labels` returns them."""
        base = (route, domain)
        pairs = combinations(range(len(members)), 2) if len(members) <= MAX_PAIRED_MEMBERS else ()
        return cls(
            base=base,
            consensus={shape: (*base, shape) for shape in CONSENSUS},
            bins=tuple((*base, str(bin_)) for bin_ in range(BINS)),
            methods={method: (*base, method) for method in METHODS},
            members=tuple((*base, member) for member in members),
            pairs=tuple((i, j, (*base, pair_label(members[i], members[j]))) for i, j in pairs),
        )

    def shown(self, *, named: bool, cascade: bool) -> tuple[dict[str, Sequence[Labels]], list[str]]:
        """The counters with the labels, and the histograms with `base`, that are shown at zero.

        Args:
            named: Whether it is a named route, which alone has references and a frozen share.
        """
        pairs = [pair for *_, pair in self.pairs]
        methods = [self.methods[name] for name in self._methods(named=named)]
        counters: dict[str, Sequence[Labels]] = {
            "corolla_predictions_total": [self.base],
            "corolla_estimated_correct_total": methods,
            "corolla_estimated_predictions_total": methods,
            "corolla_estimated_correct_squares_total": [self.base],
            "corolla_prediction_bin_total": self.bins,
            "corolla_member_predictions_total": self.members,
            "corolla_member_vote_agreements_total": self.members,
            "corolla_ensemble_pair_agreements_total": pairs,
            "corolla_ensemble_pair_comparisons_total": pairs,
            **self._of_labels(),
            "corolla_member_feedback_total": [
                (*member, outcome(correct)) for member in self.members for correct in (True, False)
            ],
        }
        histograms = [
            "corolla_prediction_confidence_ratio",
            "corolla_prediction_entropy_nats",
            "corolla_margin_ratio",
        ]
        if named:
            for name in ("frozen_predictions", "base_overrides", "foreign_inputs"):
                counters[f"corolla_{name}_total"] = [self.base]
            histograms.append("corolla_feature_distance_ratio")
        if len(self.members) != 1:  # one member never disagrees
            counters["corolla_ensemble_predictions_total"] = list(self.consensus.values())
            histograms += ["corolla_ensemble_agreement_ratio", "corolla_ensemble_mutual_information_nats"]
        if cascade:
            counters["corolla_cascade_full_predictions_total"] = [self.base]
            counters["corolla_cascade_full_agreements_total"] = [self.base]
            histograms.append("corolla_cascade_members_asked")
        return counters, histograms

    def _methods(self, *, named: bool) -> Sequence[str]:
        """Those that can be counted: one member alone has no vote, and only named routes have references."""
        voting = ("vote",) if len(self.members) != 1 else ()
        return ("confidence", *voting, *(SCORES if named else ()))

    def _of_labels(self) -> dict[str, Sequence[Labels]]:
        """The counters of labels that come back, but for those of members."""
        return {
            "corolla_feedback_total": [(*self.base, outcome(correct)) for correct in (True, False)],
            "corolla_feedback_corrections_total": [
                (*self.base, *change) for change in permutations((*OUTCOMES, UNKNOWN), 2)
            ],
            "corolla_feedback_unknown_total": [self.base],
            "corolla_feedback_bin_total": self.bins,
            "corolla_feedback_bin_correct_total": self.bins,
            "corolla_feedback_bin_confidence_ratio_total": self.bins,
            "corolla_feedback_moment_total": [(*self.base, moment) for moment in MOMENTS],
            "corolla_label_requests_total": [(*self.base, reason) for reason in REASONS],
        }


def of_route(route: str, members: Sequence[str]) -> dict[str, Sequence[Labels]]:
    """The counters of labels that no domain divides, shown at zero."""
    pairs = RouteLabels.of(route, UNSET, members).pairs
    return {
        "corolla_feedback_submissions_total": [(route, status) for status in STATUSES],
        "corolla_feedback_source_total": [(route, source) for source in SOURCES],
        "corolla_feedback_pair_total": [
            (route, pair[-1], shape) for *_, pair in pairs for shape in PAIR_OUTCOMES
        ],
    }


def member_labels(members: Sequence[str]) -> tuple[str, ...]:
    """The labels of a route's members, told apart as `lora`, `lora#2`; none where there are too many."""
    if len(members) > MAX_MEMBERS:
        return ()
    counts: dict[str, int] = {}
    labels = []
    for member in members:
        counts[member] = counts.get(member, 0) + 1
        labels.append(member if counts[member] == 1 else f"{member}#{counts[member]}")
    return tuple(labels)


def pair_label(first: str, second: str) -> str:
    """The label of two members of a route."""
    return ":".join(sorted((first, second)))


def consensus(votes: Sequence[int]) -> str:
    """The shape of a vote: unanimous, majority (more than half), plurality (most, but not half) or tie."""
    counts = sorted(map(votes.count, set(votes)), reverse=True)
    if len(counts) == 1:
        return "unanimous"
    if counts[0] * 2 > len(votes):
        return "majority"
    return "tie" if counts[0] == counts[1] else "plurality"


def outcome(correct: bool) -> str:
    return OUTCOMES[not correct]
