import json
from datetime import UTC, datetime
from typing import Any

import pytest

from model_store.format.canonical import canonical_json
from model_store.format.records import Alias, Draft, Manifest, NamedRoute, TaskSpec
from petl_vit.errors import Corrupt, InvalidInput, Unsupported
from petl_vit.precision import Precision
from tests.model_store.world import PREPROCESS

DRAFT = Draft.of(
    task="digits",
    name="lora",
    method="lora",
    config={"rank": 4},
    backbone_digest="0" * 64,
    task_digest="1" * 64,
    metrics={"accuracy": 1},
)
MANIFEST = Manifest.published(DRAFT, version=1, digest="2" * 64, created_at=datetime(2026, 1, 2, tzinfo=UTC))


def test_a_manifest_reads_back_equal() -> None:
    assert Manifest.parse(MANIFEST.encode(), "x") == MANIFEST
    assert json.loads(MANIFEST.encode())["format_version"] == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 0}, "version"),
        ({"version": "1"}, "version"),
        ({"digest": "abc"}, "digest"),
        ({"name": "../x"}, "name"),
        ({"name": "base"}, "name"),
        ({"temperature": 0}, "temperature"),
        ({"surprise": 1}, "surprise"),
        ({"metrics": {"accuracy": "high"}}, "metrics.accuracy"),
        ({"created_at": "2026-01-02T00:00:00"}, "created_at"),
    ],
)
def test_a_manifest_that_does_not_validate_names_file_and_field(
    change: dict[str, object], field: str
) -> None:
    data = json.dumps(json.loads(MANIFEST.encode()) | change).encode()
    with pytest.raises(Corrupt, match=rf"^a/manifest\.json: field '{field}': "):
        Manifest.parse(data, "a/manifest.json")


def test_a_missing_field_is_named() -> None:
    document = json.loads(MANIFEST.encode())
    del document["method"]
    with pytest.raises(Corrupt, match="field 'method': Field required"):
        Manifest.parse(json.dumps(document).encode(), "x")


def test_a_manifest_that_does_not_say_what_its_metrics_were_computed_in_means_fp32() -> None:
    document = json.loads(MANIFEST.encode())
    assert document.pop("metrics_precision") == "fp32"
    assert Manifest.parse(json.dumps(document).encode(), "x") == MANIFEST


def test_metrics_are_computed_in_fp32_or_bf16() -> None:
    draft = DRAFT.model_copy(update={"metrics_precision": Precision.BF16})
    half = Manifest.published(draft, version=1, digest="2" * 64, created_at=MANIFEST.created_at)
    assert Manifest.parse(half.encode(), "x").metrics_precision is Precision.BF16
    for said in ("auto", "fp16"):
        data = json.dumps(json.loads(half.encode()) | {"metrics_precision": said}).encode()
        with pytest.raises(Corrupt, match="field 'metrics_precision'"):
            Manifest.parse(data, "x")


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[]", b"{", b"1", b'{"version": 1}', b"[" * 100_000])
def test_what_is_no_json_record_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt, match=r"^x: "):
        Alias.parse(data, "x")


def test_nan_in_json_is_corrupt() -> None:
    data = MANIFEST.encode().replace(b'"accuracy": 1.0', b'"accuracy": NaN')
    with pytest.raises(Corrupt):
        Manifest.parse(data, "x")


def test_another_format_version_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="format version 2, this corolla reads version 1"):
        Alias.parse(b'{"format_version": 2, "anything": "else"}', "x")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ((), "at least two classes"),
        (("one",), "at least two classes, this one has 1"),
        (("a", "a"), "twice: a"),
        (("a", " "), "empty name"),
    ],
)
def test_a_task_needs_two_or_more_classes_of_different_names(classes: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as error:
        TaskSpec.of(name="digits", classes=classes, preprocess=PREPROCESS, backbone_digest="0" * 64)
    assert error.value.field == "classes"


def test_a_drafts_config_is_json_without_nan() -> None:
    with pytest.raises(InvalidInput) as error:
        Draft.of(**(dict(DRAFT) | {"training": {"loss": [float("nan")]}}))
    assert error.value.field is not None
    assert error.value.field.startswith("training")


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_a_routes_temperature_is_positive_and_finite(temperature: float) -> None:
    with pytest.raises(InvalidInput) as error:
        NamedRoute.of(task="digits", name="both", route="lora", temperature=temperature)
    assert error.value.field == "temperature"


def test_a_stored_route_that_does_not_parse_is_corrupt() -> None:
    data = b'{"format_version": 1, "task": "digits", "name": "both", "route": "lora,"}'
    with pytest.raises(Corrupt, match="field 'route': route: expected the name of an adapter"):
        NamedRoute.parse(data, "x")


def test_a_name_that_is_not_utf_8_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidInput, match=r"a name is not UTF-8: .*m\\xe9\.pth.*; rename the file or"):
        canonical_json({"file": "m\udce9.pth"})


def test_a_tasks_classes_get_one_spelling() -> None:
    values: dict[str, Any] = {"name": "t", "preprocess": PREPROCESS, "backbone_digest": "0" * 64}
    spec = TaskSpec.of(classes=("Mu\u0308ll", "Papier "), **values)
    assert spec.classes == ("M\u00fcll", "Papier")
    with pytest.raises(InvalidInput, match="class names appear twice"):
        TaskSpec.of(classes=("Mu\u0308ll", "M\u00fcll"), **values)
    older = TaskSpec(classes=("Mu\u0308ll", "Papier"), **values)  # as a store may have it
    assert older.classes[0] == "Mu\u0308ll"
