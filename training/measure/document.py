"""What one evaluation found, as one document: `corolla evaluate --out` writes it, the report reads it.

Sets, routes and classes are named once; every figure refers to them by name. docs/evaluation.md says what
each figure means and where it comes from. Nothing here computes.

Shapes: C classes, K members of a route.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from model_store.format.records import Digest, Record, StoredRecord, Temperature
from model_store.place.whole_file import write_whole
from petl_vit.errors import Corrupt, InvalidInput, NotFound, Unsupported

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Kind = Literal["base", "adapter", "alpha", "sum", "ensemble", "cascade"]


class Machine(Record):
    """What computed.

    Attributes:
        cpu: The processor's name.
        cores: Logical ones that the process may use.
        device: `cpu`, or the name of the GPU.
        precision: What the backbone computed in.
    """

    cpu: str
    cores: int
    device: str
    precision: Literal["fp32", "bf16"]


class EvaluatedBackbone(Record):
    """The frozen backbone of all routes."""

    name: str
    digest: Digest
    parameters: Count


class EvaluatedSet(Record):
    """Labelled images, under one shift or as they are.

    Attributes:
        name: Unique in the document; of a shifted set with the shift.
        source: What was asked for: a path, `digits`, ...
        digest: sha256 of the content, without the shift.
        shift: NAME:SEVERITY, or None.
        shifted: Whether it is another domain or corrupted; the first set as it is alone is not. What is
            chosen is chosen on that one.
        class_counts: [C], how many of the images have each class of the document.
        left_out: How many files of the source are not among the images, by reason.
    """

    name: str
    source: str
    digest: Digest
    images: Count
    shift: str | None
    shifted: bool
    class_counts: tuple[Count, ...]
    left_out: dict[str, Count] = Field(default_factory=dict)


class EvaluatedRoute(Record):
    """What answers.

    Attributes:
        label: Unique in the document: the name of a named route, else `text`.
        text: The route with versions.
        kind: `alpha` is one adapter at an alpha that is not 1, `sum` several adapters in weight space.
        method: Of one adapter, at any alpha; `linear` of the base.
        setting: The method's own setting that decides its size, such as `rank=8`; empty where there is none.
        members: The models in weight space, with versions.
        parameters: Trained ones of the adapters, each adapter once.
        cost: Models in the forward: K, whatever they are.
        temperature: What divides its logits when it is served: a named route's, else 1.
        seed, head_init, seconds: Of the training of one adapter; None where that is not recorded.
        seeds_of: Equal for adapters that differ in nothing but their seed; empty where that is not recorded.
    """

    label: str
    text: str
    kind: Kind
    method: str | None
    setting: str = ""
    members: tuple[str, ...]
    parameters: Count
    cost: Count
    temperature: Temperature
    seed: int | None = None
    head_init: str | None = None
    seconds: float | None = None
    seeds_of: str = ""


class PerClass(Record):
    """One class in one set: None where the set has no image of it, precision also where nothing answers it."""

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
        confusion: [C, C]; rows are the true classes.
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
    confusion: tuple[tuple[Count, ...], ...]
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
            rightly: what two such sets have in common, as a share of their mean size (figure 1b of the study).
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


class LogitCounts(Record):
    """Models times sets whose logits were computed, or found where they had been stored."""

    computed: Count = 0
    reused: Count = 0


class Evaluation(StoredRecord):
    """All that one evaluation found.

    Attributes:
        classes: In the order of every list by class.
        confident_share: Share of the images that `Pair.confident_overlap` takes.
        choices: The route that is chosen on the first set, by each rule.
        comparisons: Every two routes on every set, `a` before `b` in `routes`.
        notes: What people were told while it ran.
    """

    kind: Literal["corolla evaluation"] = "corolla evaluation"
    created_at: AwareDatetime
    corolla: str
    machine: Machine
    task: str
    classes: tuple[str, ...]
    backbone: EvaluatedBackbone
    sets: tuple[EvaluatedSet, ...]
    routes: tuple[EvaluatedRoute, ...]
    results: tuple[Result, ...]
    confident_share: Share = 0.2
    pairs: tuple[Pair, ...] = ()
    ensembles: tuple[Ensemble, ...] = ()
    curves: tuple[Curve, ...] = ()
    choices: tuple[Choice, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    logits: LogitCounts = LogitCounts()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        """Labels of routes and sets are unique, and results name only these."""
        for what, names in (("set", [s.name for s in self.sets]), ("route", [r.label for r in self.routes])):
            if len(set(names)) < len(names):
                raise ValueError(f"a {what} is there twice")
        for result in self.results:
            if not any(one.name == result.set for one in self.sets):
                raise ValueError(f"a result is of the set {result.set!r}, which is not among the sets")
            if not any(one.label == result.route for one in self.routes):
                raise ValueError(f"a result is of the route {result.route!r}, which is not among the routes")
        return self

    @property
    def reference(self) -> EvaluatedSet:
        """The first set, on which everything is chosen."""
        return self.sets[0]

    def result(self, route: str, on: str) -> Result:
        """Of a route's label on a set's name; KeyError where it is not there."""
        for one in self.results:
            if (one.route, one.set) == (route, on):
                return one
        raise KeyError((route, on))


def load_evaluation(path: str | Path) -> Evaluation:
    """Read a document that `corolla evaluate --out` wrote.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is something else; names the field.
        Unsupported: A later corolla wrote it.
    """
    remedy = "make it with `corolla evaluate ... --out FILE`"
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist", field="evaluation", remedy=remedy) from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror})", field="evaluation") from error
    try:
        return Evaluation.parse(data, str(path))
    except Unsupported as error:
        raise Unsupported(f"{path} is of {error.problem}", field="evaluation", remedy=error.remedy) from error
    except Corrupt as error:
        raise InvalidInput(
            f"{path} is not an evaluation: {error.problem}", field="evaluation", remedy=remedy
        ) from error


def save_evaluation(evaluation: Evaluation, path: str | Path) -> None:
    """Write it, whole or not at all, in the place of any file there."""
    with write_whole(Path(path)) as draft:
        draft.write_bytes(evaluation.encode())
