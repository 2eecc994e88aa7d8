"""The figures of an evaluation: of a route, of two routes, of an ensemble, of an adapter by alpha.

docs/evaluation.md says what each figure means and where it comes from. Nothing here computes.

Shapes: C classes, K members of a route.
"""

from typing import Annotated, Literal

from pydantic import Field

from model_store.format.records import Record, Temperature

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class PerClass(Record):
    """One class: None where the set has no image of it, precision also where it is never the answer."""

    precision: Share | None
    recall: Share | None
    f1: Share | None
    support: Count


class Bin(Record):
    """Answers of about one confidence; `confidence` is their mean, None where there are none."""

    count: Count
    correct: Count
    confidence: Share | None


class Scores(Record):
    """How honest the probabilities at one temperature are.

    Attributes:
        confidence: Mean probability of the answer.
        nll: Negative log-likelihood, nats.
        ece: Expected calibration error, 15 bins of equal width.
        brier: Sum over the classes of the squared error, mean over the images: 0 to 2.
        bins: 15 of equal width over the confidence, for a reliability diagram.
    """

    temperature: Temperature
    confidence: Share
    nll: float
    ece: Share
    brier: float
    bins: tuple[Bin, ...]


class Result(Record):
    """One route on one set.

    Attributes:
        low, high: Wilson's 95 % interval of the accuracy.
        macro_f1: Mean over the classes that the set has images of.
        per_class: [C].
        confusion: [C, C]; rows are the true classes. None of more than 200 classes.
        agreement: Mean share of the members whose vote is the answer.
        confidence, nll, ece, brier, confidence_histogram: At the route's temperature, as it is served.
        raw: At temperature 1.
        calibrated: At a temperature that is fitted to the first set; on that set itself each half is scored
            at the temperature of the other. None where no temperature can be fitted.
        member_accuracies: By member.
        cost: Mean number of members asked for an image.
        trained_on: How many of the images the route's adapters and base heads were trained on, as far as
            that is recorded.
        effective_robustness: Accuracy beyond what that on the first set leads one to expect; None on that
            set, and where there are too few other models to tell.
    """

    route: str
    set: str
    accuracy: Share
    low: Share
    high: Share
    macro_f1: Share
    per_class: tuple[PerClass, ...]
    confusion: tuple[tuple[Count, ...], ...] | None
    agreement: Share
    confidence: Share
    nll: float
    ece: Share
    brier: float
    confidence_histogram: tuple[Bin, ...]
    raw: Scores
    calibrated: Scores | None
    member_accuracies: dict[str, Share]
    cost: float
    trained_on: Count = 0
    effective_robustness: float | None = None


class Pair(Record):
    """Two routes of one model each on one set.

    Attributes:
        agreement: Share of the images to which both say the same class.
        kappa: Cohen's, which takes away the agreement of chance; None where both say one class alone.
        both_right, only_a, only_b, both_wrong: Images.
        error_overlap: Of the images that either says wrongly, the share that both do; None without an error.
        same_error: Of the images that both say wrongly, the share with the same wrong class; None without
            one.
        confident_overlap: Of the `confident_share` of the images that each is surest of, those that it says
            rightly: what two such sets have in common, as a share of their mean size (the study's figure 1b).
        doubtful_overlap: The same of what each says wrongly among the images that it is least sure of.
    """

    set: str
    a: str
    b: str
    agreement: Share
    kappa: float | None
    both_right: Count
    only_a: Count
    only_b: Count
    both_wrong: Count
    error_overlap: Share | None
    same_error: Share | None
    confident_overlap: Share | None
    doubtful_overlap: Share | None


class Difference(Record):
    """An accuracy less another on the same images.

    Attributes:
        low, high: 95 % interval, bootstrap over the images.
        mcnemar_p: Exact, two-sided; None where one side is a mean over several choices of members.
        only_a, only_b: Images that only one of the two says rightly; None as `mcnemar_p`.
    """

    difference: float
    low: float
    high: float
    mcnemar_p: Share | None
    only_a: Count | None
    only_b: Count | None


class Control(Record):
    """As many adapters of one method that differ in nothing but their seed, beside an ensemble.

    Where there are more seeds than members or fewer, both sides have `size` members, and every figure is the
    mean over the choices of so many (at most 100 of them, drawn with a fixed seed).

    Attributes:
        seeds: Labels of the adapters.
        size: Members on either side.
        mean, prob, vote: Accuracies of the seeds.
        mean_of_members: Mean accuracy of the seeds alone.
        ensemble: Accuracy of the ensemble's mean logits at `size` members.
        ece, ensemble_ece: Of mean logits at temperature 1.
        over_control: The ensemble's mean logits less the seeds'.
    """

    method: str
    seeds: tuple[str, ...]
    size: Count
    mean: Share
    prob: Share
    vote: Share
    mean_of_members: Share
    ensemble: Share
    ece: Share
    ensemble_ece: Share
    over_control: Difference


class Ensemble(Record):
    """An ensemble beside its members on one set.

    Attributes:
        route: Its label.
        mean, prob, vote: Accuracy by each rule, with the route's weights.
        best, worst: Accuracy of the best and the worst member on this very set, which flatters the best.
        selected_member: The member that is best on the first set; `selected` is its accuracy here.
        over_best, over_selected: The route as it answers less the member.
        controls: The largest first; empty without adapters that differ in their seed alone.
    """

    set: str
    route: str
    members: tuple[str, ...]
    mean: Share
    prob: Share
    vote: Share
    best: Share
    best_member: str
    worst: Share
    worst_member: str
    mean_of_members: Share
    selected: Share
    selected_member: str
    over_best: Difference
    over_selected: Difference
    controls: tuple[Control, ...] = ()


class Line(Record):
    """What accuracy on the first set leads one to expect: probit(there) = slope probit(here) + intercept.

    Attributes:
        models: Labels of the models that it goes through.
        r2: Share of the variance that it explains; None at a fixed slope.
        fixed: Whether the slope is 1, as the models are too few or too equal to tell.
    """

    slope: float
    intercept: float
    models: tuple[str, ...]
    r2: float | None
    fixed: bool


class Choice(Record):
    """An alpha or a route that was chosen on the first set alone, and what that costs elsewhere.

    Attributes:
        rule: `accuracy` and `nll` take the best on the first set; `budget` the smallest alpha that loses at
            most a point of accuracy there; `half` is alpha 0.5, whatever the images say.
        chosen: A route's label, or an alpha.
        accuracy: By set; on the first one by 5-fold cross-validation: chosen on four folds, scored on the
            fifth.
        oracle: By set, what would have been best there.
        cost: By set, the accuracy of that less that of what was chosen.
    """

    rule: Literal["accuracy", "nll", "budget", "half"]
    chosen: str | float
    accuracy: dict[str, Share]
    oracle: dict[str, str | float]
    cost: dict[str, float]


class Curve(Record):
    """One adapter between the frozen model (alpha 0) and as it was trained (alpha 1), or beyond.

    Attributes:
        adapter: Its label.
        accuracy, nll: By set, for each alpha.
        chosen_alpha: That of the choice by `accuracy`.
        effective_robustness: By shifted set, for each alpha.
        lines: By shifted set, what `effective_robustness` is measured from; without this adapter.
    """

    adapter: str
    method: str
    alphas: tuple[float, ...]
    accuracy: dict[str, tuple[Share, ...]]
    nll: dict[str, tuple[float, ...]]
    chosen_alpha: float
    choices: tuple[Choice, ...]
    effective_robustness: dict[str, tuple[float, ...]]
    lines: dict[str, Line]


class Comparison(Difference):
    """Two routes on one set: the accuracy of `a` less that of `b`."""

    set: str
    a: str
    b: str
    n: Count
