import math
from typing import Any

import pytest

from petl_vit.errors import InvalidInput
from training.run.recipe import Recipe


def test_the_defaults_are_the_studys() -> None:
    chosen = Recipe.of(method="lora", learning_rate=1e-3)
    assert (chosen.weight_decay, chosen.drop_path, chosen.batch_size) == (1e-4, 0.1, 64)
    assert (chosen.warmup_ratio, chosen.augment, chosen.head_init) == (0.1, "none", "probe")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", 10_001),
        ("batch_size", 0),
        ("learning_rate", 0),
        ("learning_rate", math.nan),
        ("weight_decay", -1),
        ("warmup_ratio", 1),
        ("drop_path", 1),
        ("augment", "mixup"),
        ("balance", "images"),
        ("init", "xavier"),
        ("head_init", "zero"),
        ("seed", 2**31),
        ("precision", "fp16"),
        ("keep", "first"),
        ("momentum", 0.9),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as error:
        Recipe.of(**{"method": "lora", "learning_rate": 1e-3, name: value})
    assert error.value.field == name


def test_the_digest_changes_with_everything_that_decides_the_result() -> None:
    names = {"backbone": "b", "task": "t", "data": "d", "heldout": "h"}
    chosen = Recipe.of(method="lora", learning_rate=1e-3)
    changes: list[dict[str, Any]] = [
        {"method": "ssf"},
        {"config": {"rank": 4}},
        {"epochs": 31},
        {"batch_size": 32},
        {"learning_rate": 1e-2},
        {"head_rate": 1e-4},
        {"weight_decay": 1e-3},
        {"warmup_ratio": 0.2},
        {"drop_path": 0.0},
        {"augment": "flip"},
        {"balance": "classes"},
        {"init": "published"},
        {"head_init": "random"},
        {"seed": 1},
        {"precision": "bf16"},
        {"keep": "best"},
    ]
    digests = [chosen.model_copy(update=change).digest(**names) for change in changes]
    digests += [chosen.digest(**names | {name: "x"}) for name in names if name != "heldout"]
    assert len({chosen.digest(**names), *digests}) == 1 + len(digests)
    assert {next(iter(change)) for change in changes} == set(Recipe.model_fields)
    assert chosen.digest(**names) == Recipe.of(method="lora", learning_rate=1e-3).digest(**names)


def test_a_run_in_fp32_has_the_digest_that_it_had_before_there_was_a_choice() -> None:
    chosen = Recipe.of(method="ssf", learning_rate=0.01, seed=4)
    assert chosen.digest(backbone="b", task="t", data="d", heldout="h") == (
        "92cfad75a101027819eca8a476b1cd7406b5e5e47fac25fdcf6db2da4255e13c"
    )
    later = ("precision", "keep", "init", "balance")
    before = {name: value for name, value in chosen.model_dump().items() if name not in later}
    assert Recipe.of(**before) == chosen


@pytest.mark.parametrize(
    ("method", "setting", "before", "other"),
    [
        ("adaptformer", "layer_scale", False, True),
        ("convpass", "layer_scale", False, True),
        ("vpt_deep", "mask", "row", "batch"),
        ("vpt_shallow", "mask", "row", "batch"),
        ("vqt", "dropout", 0.0, 0.1),
    ],
)
def test_a_later_setting_of_a_method_leaves_the_digests_of_earlier_runs(
    method: str, setting: str, before: object, other: object
) -> None:
    of = {"backbone": "b", "task": "t", "data": "d", "heldout": "h"}
    digests = [
        Recipe.of(method=method, learning_rate=0.01, config=config).digest(**of)
        for config in ({"prompts": 3}, {"prompts": 3, setting: before}, {"prompts": 3, setting: other})
    ]
    assert digests[0] == digests[1] != digests[2]
