"""What a sweep tries."""

import json
from pathlib import Path

import pytest

from petl_vit import methods, summaries
from petl_vit.errors import CorollaError, InvalidInput
from training.run.recipe import Recipe
from training.study.grids import FACTOR, NAMED, PAPER, SMALL, chosen_methods, grid_of
from training.study.pack import planned, with_rates

COMMON = Recipe.of(method="lora", epochs=30)
PUBLISHED = {
    "linear": 4,
    "full": 4,
    "bitfit": 4,
    "layernorm": 4,
    "difffit": 4,
    "ssf": 4,
    "vpt_shallow": 20,
    "vpt_deep": 16,
    "pfeiffer": 80,
    "houlsby": 64,
    "adaptformer": 36,
    "repadapter": 60,
    "convpass": 80,
    "lora": 16,
    "fact_tt": 60,
    "fact_tk": 60,
}


def test_the_papers_grids_have_the_published_numbers_of_trials() -> None:
    assert {method: PAPER.size(method) for method in PUBLISHED} == PUBLISHED
    assert {m for m in summaries.names() if PAPER.published(m)} == PUBLISHED.keys()


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("method", summaries.names())
def test_every_point_of_every_grid_can_be_trained(name: str, method: str) -> None:
    grid = NAMED[name]
    points = grid.points(method)
    assert len(points) == grid.size(method) == len({json.dumps(point) for point in points})
    for point in points:
        trial = with_rates(planned(method, point, COMMON), point, 800)
        assert trial.recipe.learning_rate is not None
        assert trial.recipe.drop_path == methods.get(method).drop_path
        assert ("learning_rate" in point) != (FACTOR in point)


def test_the_small_grid_has_four_trials_of_every_method() -> None:
    assert {SMALL.size(method) for method in summaries.names()} == {4}


def test_a_factor_multiplies_the_rates_that_train_would_choose() -> None:
    plain, double = (with_rates(planned("lora", p, COMMON), p, 800).recipe for p in ({}, {FACTOR: 2.0}))
    assert double.learning_rate == pytest.approx(2 * (plain.learning_rate or 0), rel=0.01)
    assert double.head_rate == pytest.approx(2 * (plain.head_rate or 0), rel=0.01)


def test_a_few_trials_cover_every_value_of_every_setting_and_the_seed_alone_chooses_them() -> None:
    some = PAPER.points("lora", 8, seed=1)
    assert len({json.dumps(point) for point in some}) == 8
    for name, values in PAPER.settings("lora").items():
        assert {point[name] for point in some} == set(values)
    assert some == PAPER.points("lora", 8, seed=1)
    assert some != PAPER.points("lora", 8, seed=2)
    assert PAPER.points("lora", 99) == PAPER.points("lora")


def test_a_grid_of_ones_own_spells_settings_as_the_command_line_does(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        '{"vpt-deep": {"prompts": [5, 9], "lr": 0.01}, "*": {"lr": [1], "weight-decay": [0, 0.1]}}'
    )
    grid = grid_of(str(path))
    assert grid.name == "mine.json"
    assert grid.points("vpt_deep", 1)[0].keys() == {"prompts", "learning_rate", "weight_decay"}
    assert grid.size("vpt_deep") == 4
    assert grid.points("lora") == [
        {"learning_rate": 1, "weight_decay": 0},
        {"learning_rate": 1, "weight_decay": 0.1},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "is empty"),
        ("[1]", "not an object"),
        ('{"lora": [1]}', "not an object"),
        ("{", "is not JSON"),
        ("", 'write {"lora": '),
        ('{"lorra": {}}', "did you mean lora"),
        ('{"lora": {"rnk": [1]}}', "did you mean rank"),
        ('{"*": {"rank": [1]}}', "no setting 'rank' that every method has"),
        ('{"lora": {"rank": []}}', "no values for rank of lora"),
        ('{"lora": {"rank": [[1]]}}', "cannot be [1]"),
        ('{"lora": {"lr": [1], "lr_factor": [1]}}', "both lr and lr_factor"),
        ('{"lora": {"epochs": [3]}}', "no setting 'epochs'"),
        ('{"lora": {"epochs": [3]}}', "use one of rank, dropout, targets, lr, lr_factor, head_lr, "),
        ('{"lora": {"lr": [NaN]}}', "lr of lora is not a finite number (nan)"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "grid.json"
    path.write_text(text)
    with pytest.raises(CorollaError, match=r".*") as caught:
        grid_of(str(path))
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ['{"lora": {}}', '{"*": {}}', '{"lora": {}, "*": {}}'])
def test_a_grid_without_a_setting_to_try_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "grid.json"
    path.write_text(text)
    grid = grid_of(str(path))
    with pytest.raises(InvalidInput, match=r"grid\.json has nothing to try for lora; give settings"):
        grid.settings("lora")


def test_methods_are_named_by_words_or_commas_each_once() -> None:
    assert chosen_methods(["lora,ssf", "vpt-deep", "lora"]) == ["lora", "ssf", "vpt_deep"]
    assert chosen_methods(["ssf", "all"]) == ["ssf", *(m for m in summaries.names() if m != "ssf")]
