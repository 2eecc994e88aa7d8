"""What docs/metrics.md says of signals."""

from model_store.format.reference import FEWEST
from serving.metrics.answers import LOW_CONFIDENCE
from serving.metrics.series import EXEMPLAR_CHARACTERS

BEFORE = (
    "",
    "Signals tell without labels how sure a server is, and whether its images are unlike those that it was",
    "measured on. None of them is a proof; [labels](serving.md#labels) are. Each is a number of one image,",
    "summed in counters beside the number of images that have it, so that any window, domain or set of",
    "replicas has its mean. Logits and sums are float64. What is NaN or infinite is counted in",
    "`corolla_invalid_scores_total` and nowhere else.",
)

TABLE = (
    (
        "confidence",
        "The probability of the answer at the route's own temperature, which averaged logits need as much as "
        "a single adapter. Where it is calibrated, its mean is the accuracy.",
        "`corolla_prediction_confidence_ratio`; method `confidence`",
    ),
    (
        "ATC",
        "Whether the log confidence or the negative entropy reaches a threshold: that which as many answers "
        "of the route's reference reach as are right.",
        "methods `atc_mc` and `atc_ne`",
    ),
    (
        "vote share",
        "The share of the members whose class is the answer.",
        "`corolla_ensemble_agreement_ratio`; method `vote`",
    ),
    ("margin", "What the answer is more probable than the runner-up.", "`corolla_margin_ratio`"),
    (
        "mutual information",
        "How far the members disagree about the probabilities.",
        "`corolla_ensemble_mutual_information_nats`",
    ),
    (
        "overrides",
        "Whether the answer is another than a member's, or than that of the frozen backbone with the task's "
        "base head, which may be right where all members are wrong together.",
        "`corolla_member_vote_agreements_total`, `corolla_base_overrides_total`",
    ),
    (
        "foreign inputs",
        "Whether the frozen backbone's features are farther from those of the reference than 95 % of its "
        "images are, whatever the members say.",
        "`corolla_foreign_inputs_total`, `corolla_feature_distance_ratio`",
    ),
)

AFTER = (
    "",
    "The ATC methods and the distances need a [reference](store-format.md) of exactly the versions, weights",
    "and temperature that answer. Without one, or once an alias has moved, they count nothing more, and",
    "their means remain those of the images that they scored. The ATC methods also count nothing where the",
    f"reference has fewer than {FEWEST} images, or only right answers, or none. Of a cascade, confidence,",
    "margin and ATC are those of its answers, and what depends on votes counts only the images that are put",
    "to all members. A route without a name has neither a reference nor a frozen share.",
    "",
    "The frozen backbone answers `--frozen-share` of the images of named routes (0.02), chosen by a hash of",
    "their content: every replica chooses alike, and an image that comes again is in the share again. It",
    "costs one row of a forward for each of these images, which takes no room in the queue and changes no",
    "answer. `python -m benchmarks.monitoring` measures what all signals cost.",
    "",
    "Scrapers that ask for OpenMetrics, as Prometheus does, get exemplars, which it keeps with",
    "`--enable-feature=exemplar-storage`: the latest answer in each bucket of",
    f"`corolla_prediction_confidence_ratio` up to {LOW_CONFIDENCE:g}, and the latest wrong answer in",
    f"`corolla_feedback_total`, by the first {EXEMPLAR_CHARACTERS} characters of its `prediction_id`.",
)
