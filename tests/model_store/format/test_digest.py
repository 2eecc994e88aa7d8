import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from model_store.format.canonical import canonical_json
from model_store.format.digest import adapter_digest, backbone_digest, task_digest
from petl_vit.errors import InvalidInput
from tests.model_store.world import CONFIG, PREPROCESS

DOCS = Path(__file__).parents[3] / "docs" / "store-format.md"
HEAD = {"head.weight": torch.tensor([[0.5, -1.0], [2.0, 0.25]]), "head.bias": torch.tensor([0.0, 1.0])}


def _adapter(**changes: object) -> str:
    values: dict[str, object] = {
        "method": "linear",
        "config": {},
        "backbone": "0" * 64,
        "task": "1" * 64,
        "tensors": HEAD,
    }
    return adapter_digest(**(values | changes))  # type: ignore[arg-type]


def test_the_worked_example_of_the_docs_is_the_digest(capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(
        r"```python\n(import hashlib.*?)```\n\nIt prints `([0-9a-f]{64})`", DOCS.read_text(), re.S
    )
    assert example is not None
    imports = set(re.findall(r"^(?:import|from) (\w+)", example[1], re.M))
    assert imports == {"hashlib", "json", "struct"}
    exec(compile(example[1], "docs/store-format.md", "exec"), {})
    assert capsys.readouterr().out.strip() == example[2] == _adapter()


@pytest.mark.parametrize(
    "change",
    [
        {"method": "lora"},
        {"config": {"rank": 1}},
        {"backbone": "2" * 64},
        {"task": "2" * 64},
        {"tensors": HEAD | {"head.bias": torch.tensor([0.0, 1.5])}},
        {"tensors": HEAD | {"head.bias": torch.tensor([[0.0, 1.0]])}},
        {"tensors": HEAD | {"head.bias": torch.tensor([0.0, 1.0]).double()}},
        {"tensors": HEAD | {"x": torch.tensor([])}},
        {"tensors": {"head.weight": HEAD["head.bias"], "head.bias": HEAD["head.weight"]}},
    ],
)
def test_everything_that_an_adapter_computes_with_changes_its_digest(change: dict[str, object]) -> None:
    assert _adapter(**change) != _adapter()


def test_order_and_memory_layout_do_not_change_a_digest() -> None:
    assert _adapter(tensors=dict(reversed(HEAD.items()))) == _adapter()
    assert _adapter(tensors=HEAD | {"head.weight": HEAD["head.weight"].T.contiguous().T}) == _adapter()


def test_a_tasks_digest_covers_class_order_preprocessing_and_head() -> None:
    first = task_digest(("a", "b"), PREPROCESS, "0" * 64, HEAD)
    assert task_digest(("b", "a"), PREPROCESS, "0" * 64, HEAD) != first
    assert task_digest(("a", "b"), PREPROCESS.model_copy(update={"image_size": 32}), "0" * 64, HEAD) != first
    assert task_digest(("a", "b"), PREPROCESS, "1" * 64, HEAD) != first
    assert task_digest(("a", "b"), PREPROCESS, "0" * 64, {"head.bias": HEAD["head.bias"]}) != first


def test_a_backbones_digest_covers_its_config() -> None:
    changed = CONFIG.model_copy(update={"pos_embed_antialias": False})
    assert backbone_digest(changed, HEAD) != backbone_digest(CONFIG, HEAD)


def test_canonical_json_has_one_spelling() -> None:
    value: JsonValue = {"b": [1, 1.0, 1e-05, None, True], "a": "ä\n", "A": {}}
    assert canonical_json(value) == '{"A":{},"a":"ä\\n","b":[1,1.0,1e-05,null,true]}'.encode()


@given(st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False) | st.text()))
def test_canonical_json_does_not_depend_on_order(value: dict[str, float | str]) -> None:
    try:
        expected = canonical_json(dict(value))
    except InvalidInput:
        return  # lone surrogates have no UTF-8
    assert canonical_json(dict(reversed(value.items()))) == expected


def test_what_is_not_json_is_refused() -> None:
    for value in (float("nan"), float("inf"), {1, 2}, "\ud800"):
        with pytest.raises(InvalidInput):
            canonical_json(value)  # type: ignore[arg-type]


def test_a_dtype_that_the_store_does_not_keep_is_refused() -> None:
    with pytest.raises(InvalidInput, match="complex64"):
        _adapter(tensors={"x": torch.zeros(1, dtype=torch.complex64)})
