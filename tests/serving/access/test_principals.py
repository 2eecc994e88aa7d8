"""Principals: which tasks and routes their patterns mean."""

import pytest
from pydantic import ValidationError

from serving.access.principals import Principal


def principal(**fields: object) -> Principal:
    return Principal.model_validate({"name": "team", "scopes": ("infer",)} | fields)


@pytest.mark.parametrize(
    ("fields", "may", "may_not"),
    [
        ({}, ["birds/lora", "cars/base"], []),
        ({"tasks": ["birds"]}, ["birds/lora", "birds/best"], ["birds2/lora", "cars/lora"]),
        ({"tasks": ["birds-*", "cars"]}, ["birds-eu/x", "cars/x"], ["birds/x", "carsharing/x"]),
        ({"routes": ["birds/prod"]}, ["birds/prod"], ["birds/lora", "cars/prod", "birds/prod2"]),
        ({"routes": ["prod"]}, ["birds/prod", "cars/prod"], ["birds/lora"]),
        ({"routes": ["birds/*"]}, ["birds/a", "birds/b"], ["cars/a"]),
        ({"tasks": ["birds"], "routes": ["prod"]}, ["birds/prod"], ["cars/prod", "birds/lora"]),
    ],
)
def test_patterns_are_of_tasks_and_of_names_in_them(
    fields: dict[str, object], may: list[str], may_not: list[str]
) -> None:
    team = principal(**fields)
    assert [name for name in may_not if team.may_use(*name.split("/"))] == []
    assert [name for name in may if not team.may_use(*name.split("/"))] == []
    assert team.limited is bool(fields)


@pytest.mark.parametrize(
    ("routes", "tasks"),
    [
        (["birds/prod"], ["birds"]),
        (["birds*/prod", "cars/x"], ["birds", "birds2", "cars"]),
        (["prod"], ["birds", "birds2", "cars"]),
    ],
)
def test_a_task_is_a_principals_where_one_of_its_routes_can_be(routes: list[str], tasks: list[str]) -> None:
    team = principal(routes=routes)
    assert [task for task in ("birds", "birds2", "cars") if team.may_use_task(task)] == tasks


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "x\n"},
        {"scopes": []},
        {"scopes": ["root"]},
        {"tasks": []},
        {"tasks": ["a/b"]},
        {"routes": ["a/b/c"]},
        {"requests_per_s": 0},
        {"rows_per_s": -1},
        {"rows_per_s": float("nan")},
        {"weight": 0},
        {"token": []},
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        principal(**fields)
