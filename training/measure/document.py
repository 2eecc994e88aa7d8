"""What one evaluation found, as one document: `corolla evaluate --out` writes it, the report reads it.

Sets, routes and classes are named once; every figure refers to them by name. docs/evaluation.md says what
each figure means and where it comes from. Nothing here computes.

Shapes: C classes, K members of a route.
"""

from pathlib import Path
from typing import Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from model_store.format.records import Digest, Record, StoredRecord, Temperature
from model_store.place.whole_file import write_whole
from petl_vit.errors import Corrupt, InvalidInput, NotFound, Unsupported
from training.measure.figures import (
    Bin,
    Choice,
    Comparison,
    Control,
    Count,
    Curve,
    Difference,
    Ensemble,
    Line,
    Pair,
    PerClass,
    Result,
    Scores,
    Share,
)

__all__ = [
    "Bin",
    "Choice",
    "Comparison",
    "Control",
    "Curve",
    "Difference",
    "Ensemble",
    "EvaluatedBackbone",
    "EvaluatedRoute",
    "EvaluatedSet",
    "Evaluation",
    "Kind",
    "Line",
    "LogitCounts",
    "Machine",
    "Pair",
    "PerClass",
    "Result",
    "Scores",
    "load_evaluation",
    "save_evaluation",
]

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
