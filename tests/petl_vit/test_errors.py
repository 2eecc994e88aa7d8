"""Errors: what they name, and copies of them."""

import pytest

from petl_vit.errors import CorollaError, InvalidInput, Overloaded, near


class WithTime(Overloaded):
    """Asks for more than its parent, and remembers it."""

    def __init__(self, problem: str, *, retry_after_s: float) -> None:
        super().__init__(problem, field="queue", remedy="wait")
        self.retry_after_s = retry_after_s


def test_a_copy_is_about_another_field_and_leaves_the_first_as_it_is() -> None:
    first = InvalidInput("it is odd", field="alpha", remedy="make it even")
    second = first.about("parameters[alpha]")

    assert str(first) == "alpha: it is odd; make it even"
    assert str(second) == "parameters[alpha]: it is odd; make it even"
    assert type(second) is InvalidInput
    assert second.args == first.args


def test_a_copy_keeps_what_its_class_adds() -> None:
    copy = WithTime("full", retry_after_s=3.0).about("images")

    assert (type(copy), copy.field, copy.remedy, copy.retry_after_s) == (WithTime, "images", "wait", 3.0)


def test_a_copy_can_be_raised_from_its_original() -> None:
    first = CorollaError("broken", field="a")
    with pytest.raises(CorollaError) as caught:
        raise first.about("b") from first

    assert caught.value.__cause__ is first


def test_near_names_what_is_alike_or_says_nothing() -> None:
    assert near("lroa", ["lora", "ssf"]) == "did you mean lora?"
    assert near("lorra", ["dora", "lora"]) == "did you mean lora?"
    assert near("loar", ["lora", "lora2"]) == "did you mean lora or lora2?"
    assert near("zzz", ["lora", "ssf"]) is None
