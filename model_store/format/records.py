"""The records: what each JSON file of a store says. docs/store-format.md shows all of them.

Records are immutable. A user's values are refused as `InvalidInput` (`Record.of`),
one read from a file that does not validate is `Corrupt` (`Record.parse`).
"""

import json
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    JsonValue,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from model_store.format.canonical import canonical_json
from model_store.names import BACKBONE_NAME, BASE, DIGEST, NAME, class_name
from model_store.routes.algebra import MAX_VERSION, Route
from model_store.routes.text import parse_route
from petl_vit.backbone import BackboneConfig
from petl_vit.cascade import Score, Stage
from petl_vit.combine import Combine
from petl_vit.errors import Corrupt, InvalidInput, Unsupported
from petl_vit.image_input import Preprocess
from petl_vit.precision import Precision

FORMAT_VERSION: Final = 1

Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
BackboneName = Annotated[str, StringConstraints(pattern=f"^{BACKBONE_NAME}$")]
Digest = Annotated[str, StringConstraints(pattern=f"^{DIGEST}$")]
Version = Annotated[int, Field(ge=1, le=MAX_VERSION)]
Temperature = Annotated[FiniteFloat, Field(gt=0)]


class Record(BaseModel):
    """What all records share: frozen, nothing unknown, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def of(cls, **values: object) -> Self:
        """Make a record from a user's values.

        Raises:
            InvalidInput: A value does not validate; names the first field that does not.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            field, problem = _first_problem(error)
            raise InvalidInput(problem, field=field) from error


class StoredRecord(Record):
    """A record that is a file by itself."""

    format_version: Literal[1] = FORMAT_VERSION

    @classmethod
    def parse(cls, data: bytes, key: str) -> Self:
        """Read a record.

        Args:
            data: The whole file.
            key: Where it came from, for the error.

        Raises:
            Corrupt: It is not JSON or does not validate; names the file and the field.
            Unsupported: A newer version of the format.
        """
        _check_format(data, key)
        try:
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            field, problem = _first_problem(error)
            raise Corrupt(f"field {field!r}: {problem}", field=key, remedy=_RESTORE) from error

    def encode(self) -> bytes:
        """Write the record as the indented JSON that `parse` reads."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def _check_known_name(name: str) -> str:
    if name == BASE:
        raise ValueError("`base` means the frozen backbone and cannot be taken")
    return name


def _check_computed(precision: Precision) -> Precision:
    if precision is Precision.AUTO:
        raise ValueError("`auto` is not a precision to compute in; fp32 and bf16 are")
    return precision


def _check_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    canonical_json(value)
    return value


AdapterName = Annotated[Name, AfterValidator(_check_known_name)]
ComputedIn = Annotated[Precision, AfterValidator(_check_computed)]
JsonObject = Annotated[dict[str, JsonValue], AfterValidator(_check_json)]


class BackboneRecord(StoredRecord):
    """Frozen weights: backbones/<digest>/backbone.json."""

    digest: Digest
    name: BackboneName
    config: BackboneConfig
    source: str
    created_at: AwareDatetime


class TaskSpec(Record):
    """What a task asks: its classes in the order of the head's rows, and how images reach the backbone."""

    name: Name
    classes: tuple[str, ...]
    preprocess: Preprocess
    backbone_digest: Digest

    @classmethod
    def of(cls, **values: object) -> Self:
        """As `Record.of`; classes get their one spelling, which those of an older task may lack."""
        classes = values.get("classes")
        if isinstance(classes, list | tuple):
            values["classes"] = tuple(class_name(c) if isinstance(c, str) else c for c in classes)
        return super().of(**values)

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(classes) < 2:
            raise ValueError(f"a task needs at least two classes, this one has {len(classes)}")
        if any(not name.strip() for name in classes):
            raise ValueError("a class has an empty name")
        twice = sorted({name for name in classes if classes.count(name) > 1}) if _repeats(classes) else []
        if twice:
            raise ValueError(f"class names appear twice: {', '.join(twice[:8])}")
        return classes


class TaskRecord(StoredRecord):
    """One version of a task on one backbone: tasks/<task>/<digest>/task.json.

    Attributes:
        version: Counts the base heads of the task on this backbone.
        training: What the base head was fitted to; empty where that is not recorded.
    """

    digest: Digest
    spec: TaskSpec
    version: Version = 1
    training: JsonObject = {}
    created_at: AwareDatetime


class Draft(Record):
    """An adapter that is not published yet: everything a trainer knows about it but its tensors."""

    task: Name
    name: AdapterName
    method: Name
    config: JsonObject
    backbone_digest: Digest
    task_digest: Digest
    temperature: Temperature = 1.0
    metrics: dict[str, FiniteFloat] = {}
    metrics_precision: ComputedIn = Precision.FP32
    training: JsonObject = {}


class Manifest(StoredRecord):
    """A published adapter: adapters/<task>/<name>/<version>/manifest.json."""

    task: Name
    name: AdapterName
    version: Version
    digest: Digest
    method: Name
    config: JsonObject
    backbone_digest: Digest
    task_digest: Digest
    temperature: Temperature
    metrics: dict[str, FiniteFloat]
    metrics_precision: ComputedIn = Precision.FP32  # manifests without it were measured in fp32
    training: JsonObject
    created_at: AwareDatetime

    @classmethod
    def published(cls, draft: Draft, *, version: int, digest: str, created_at: datetime) -> "Manifest":
        """The manifest that a draft becomes."""
        return cls(version=version, digest=digest, created_at=created_at, **dict(draft))

    def __str__(self) -> str:
        return f"{self.task}/{self.name}:{self.version}"


class Archived(StoredRecord):
    """What an archive says of itself: its corolla.json. Versions and times stay with the store."""

    kind: Literal["corolla adapter"] = "corolla adapter"
    adapter: Draft
    adapter_digest: Digest
    task: TaskSpec
    backbone: BackboneConfig


class Alias(StoredRecord):
    """A movable name of a version: aliases/<task>/<name>/<alias>."""

    version: Version


class Tombstone(StoredRecord):
    """A deleted version, whose number is never used again: adapters/<task>/<name>/<version>/deleted.json.

    Attributes:
        digest: The adapter's; None where it was never published.
    """

    digest: Digest | None
    deleted_at: AwareDatetime


class ExactVersion(Record):
    """One version of an adapter, `task/name:version`, or `task/base`; and what it computes."""

    adapter: str
    digest: Digest


class CascadeMeasured(Record):
    """What a cascade's thresholds did on the images they were learnt on, cross-validated.

    Attributes:
        accuracy_loss: Accuracy of all members minus that of the cascade; negative where it gained.
        cost: Members asked, mean over the images.
        images: How many.
        data: The digest of the set.
        folds: Of the cross-validation.
    """

    accuracy_loss: FiniteFloat
    cost: Annotated[FiniteFloat, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]
    data: Digest
    folds: Annotated[int, Field(ge=2)]


class Cascade(Record):
    """When a cascade's answer is settled, learnt for the exact versions of its route.

    Attributes:
        score: What says how settled an answer is.
        order: The indices of the route's entries in the order in which they are asked.
        stages: One for each number of members asked; only the last has no threshold.
        loss: The accuracy that it may lose, as the route states it.
        measured: What it lost and cost where it was learnt.
    """

    score: Score
    order: tuple[int, ...]
    stages: tuple[Stage, ...]
    loss: Annotated[FiniteFloat, Field(ge=0, lt=1)]
    measured: CascadeMeasured

    @property
    def asks(self) -> str:
        """What it asks, in words."""
        return f"asks {self.measured.cost:.3g} of {len(self.order)} members on average"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if sorted(self.order) != list(range(len(self.stages))):
            raise ValueError(
                f"order {list(self.order)} does not have each of {len(self.stages)} members once"
            )
        if [stage.threshold is None for stage in self.stages] != [False] * (len(self.stages) - 1) + [True]:
            raise ValueError("all stages but the last have a threshold")
        return self


class NamedRoute(StoredRecord):
    """A route kept under a name: routes/<task>/<name>.

    Attributes:
        versions: What its terms meant when it was put, in their order: the temperature belongs to these.
            Empty where that was not recorded.
        cascade: A cascade's thresholds, which belong to these versions; None until they are learnt. Its
            last stage has the route's temperature.
    """

    task: Name
    name: AdapterName
    route: str
    temperature: Temperature = 1.0
    extrapolate: bool = False
    versions: tuple[ExactVersion, ...] = ()
    cascade: Cascade | None = None

    @field_validator("route")
    @classmethod
    def _check_route(cls, text: str) -> str:
        return str(parse_route(text))

    @model_validator(mode="after")
    def _check_cascade(self) -> Self:
        if self.cascade is None:
            return self
        route = self.parsed()
        if route.combine is not Combine.CASCADE or len(route.entries) != len(self.cascade.order):
            raise ValueError(f"the thresholds are of {len(self.cascade.order)} members, not of {route}")
        if self.cascade.loss != route.loss:
            raise ValueError(f"the thresholds are for a loss of {self.cascade.loss}, not for {route}")
        if self.cascade.stages[-1].temperature != self.temperature:
            raise ValueError(f"temperature {self.temperature} is not that of the cascade's last stage")
        return self

    def encode(self) -> bytes:
        """As `StoredRecord.encode`; a route without thresholds is as it was before there were cascades."""
        without = {"cascade"} if self.cascade is None else None
        return (self.model_dump_json(indent=2, exclude=without) + "\n").encode()

    def parsed(self) -> Route:
        """The route in its typed form."""
        return parse_route(self.route)

    @property
    def follows(self) -> tuple[str, ...]:
        """The adapters in it of which the newest version answers, whichever that is."""
        return tuple(str(ref) for ref in self.parsed().adapters if ref.follows_latest)


class Audit(StoredRecord):
    """One change of what a name means: history/aliases|routes/<names>/<time>-<id>.json.

    Attributes:
        name: `task/route`, or `task/adapter@alias`.
        before, after: A route's text, or an alias's version; empty where there was or is none.
        before_versions, after_versions: What a route's terms meant when it was put.
        by: Who changed it: `user@host`, or the peer of a call.
    """

    name: str
    before: str
    after: str
    before_versions: tuple[str, ...] = ()
    after_versions: tuple[str, ...] = ()
    before_temperature: Temperature | None = None
    after_temperature: Temperature | None = None
    at: AwareDatetime
    by: str
    note: str = ""


_RESTORE = "restore the file from a backup, or remove its folder and make it again"


def _check_format(data: bytes, key: str) -> None:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"not JSON ({error})", field=key, remedy=_RESTORE) from error
    if not isinstance(document, dict) or not isinstance(document.get("format_version"), int):
        raise Corrupt("field 'format_version': missing or not a number", field=key, remedy=_RESTORE)
    if document["format_version"] != FORMAT_VERSION:
        raise Unsupported(
            f"format version {document['format_version']}, this corolla reads version {FORMAT_VERSION}",
            field=key,
            remedy="install the corolla that wrote it",
        )


def _repeats(classes: tuple[str, ...]) -> bool:
    return len(set(classes)) < len(classes)


def _first_problem(error: ValidationError) -> tuple[str, str]:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "record"
    return field, first["msg"].removeprefix("Value error, ")
