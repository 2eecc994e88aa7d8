"""What names, versions and parameters mean; the rest of them is tested through its servicer."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petl_vit.errors import CorollaError, InvalidInput, NotFound
from serving.engine.priority import Priority
from serving.oip.requests import Inference, Parameters, protocol_field, request_of, target
from serving.oip.tensors import Input


def asked(**parameters: Any) -> Any:
    tensor = Input(name="images", datatype="BYTES", shape=(1,), values={"bytes_contents": [b"x"]})
    inference = Inference(
        model="lora", version="", parameters=Parameters(parameters), inputs=[tensor], raw=[], outputs=[]
    )
    return request_of(inference, max_images=8, deadline=None, peer="ipv4:1.2.3.4:5")


def refused(call: Callable[[], Any]) -> str | None:
    """The field that is refused; None where nothing is."""
    try:
        call()
    except InvalidInput as error:
        return error.field or "nameless"
    return None


@pytest.mark.parametrize(
    ("model", "task", "route"),
    [
        ("digits/best", "digits", "best"),
        ("digits/lora:3", "", "digits/lora:3"),
        ("digits/lora@latest", "", "digits/lora@latest"),
        ("0.5*digits/lora", "", "0.5*digits/lora"),
        ("digits/base", "digits", "base"),
        ("digits/lora, ssf", "", "digits/lora, ssf"),
    ],
)
def test_a_lone_name_with_its_task_may_be_a_named_route(model: str, task: str, route: str) -> None:
    found, read = target(model, "", Parameters())
    assert (found, str(read)) == (task, route)


def test_a_task_in_the_parameters_is_the_task_of_what_names_none() -> None:
    task, route = target("digits/lora", "", Parameters({"task": "letters"}))
    assert (task, str(route)) == ("letters", "digits/lora")
    task, route = target("digits/best", "", Parameters({"task": "digits"}))
    assert (task, str(route)) == ("digits", "best"), "it may be a named route, as without the parameter"


def test_the_earliest_deadline_counts_and_a_timeout_of_zero_is_none() -> None:
    assert asked().deadline is None
    assert asked(timeout=0).deadline is None
    for parameters in ({"timeout": 5_000_000, "deadline": 9}, {"timeout": 9_000_000, "deadline": "5.0"}):
        assert asked(**parameters).deadline == pytest.approx(time.monotonic() + 5, abs=1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, Priority.NORMAL),
        (1, Priority.HIGH),
        (2, Priority.NORMAL),
        (3, Priority.LOW),
        ("Low", Priority.LOW),
    ],
)
def test_priorities_are_tritons_numbers_or_our_names(given: int | str, expected: Priority) -> None:
    assert asked(priority=given).priority is expected


NAMES = st.sampled_from(["alpha", "deadline", "timeout", "top_k", "priority", "client", "route", "task"])


@given(st.dictionaries(NAMES, st.one_of(st.text(), st.integers(), st.floats(), st.booleans())))
def test_no_parameter_breaks_more_than_its_request(parameters: dict[str, Any]) -> None:
    assert refused(lambda: asked(**parameters)) != "nameless"


@given(st.text())
def test_any_text_is_a_version_an_alias_or_refused(version: str) -> None:
    assert refused(lambda: target("lora", version, Parameters())) in (None, "model_version")


@pytest.mark.parametrize(
    ("error", "version", "parameters", "field"),
    [
        (NotFound("", field="adapter"), "", {}, "model_name"),
        (NotFound("", field="adapter"), "", {"route": "x"}, "parameters[route]"),
        (NotFound("", field="version"), "3", {}, "model_version"),
        (NotFound("", field="version"), "", {}, "model_name"),
        (NotFound("", field="task"), "", {}, "model_name"),
        (InvalidInput("", field="task"), "", {}, "parameters[task]"),
        (InvalidInput("", field="alpha"), "", {"alpha": 2}, "parameters[alpha]"),
        (InvalidInput("", field="images[2]"), "", {}, "images[2]"),
        (CorollaError("", field="route"), "", {}, "route"),
    ],
)
def test_our_fields_become_the_protocols(
    error: CorollaError, version: str, parameters: dict[str, Any], field: str
) -> None:
    assert protocol_field(error, version, Parameters(parameters)) == field
