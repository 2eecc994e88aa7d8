import pytest

from model_store.names import check_backbone_name, check_digest, check_name, not_found
from petl_vit.errors import InvalidInput


@pytest.mark.parametrize("name", ["a", "lora", "lora-2_x", "a" * 63])
def test_names_are_lower_case_words(name: str) -> None:
    assert check_name(name, "adapter") == name


@pytest.mark.parametrize("name", ["", "A", "1a", "-a", "a.b", "a/b", "..", "a" * 64, "a\n", "ä"])
def test_anything_else_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(InvalidInput, match="lower-case letter") as error:
        check_name(name, "adapter")
    assert error.value.field == "adapter"


def test_a_backbones_name_may_have_dots_but_no_slash() -> None:
    assert check_backbone_name("vit_base_patch16_224.augreg_in21k")
    with pytest.raises(InvalidInput):
        check_backbone_name("a/b")


def test_a_digest_is_64_lower_case_hexadecimal_digits() -> None:
    assert check_digest("0" * 64, "task")
    for text in ("0" * 63, "A" * 64, "../" + "0" * 61):
        with pytest.raises(InvalidInput):
            check_digest(text, "task")


def test_what_is_not_found_comes_with_near_matches_else_all_else_a_start() -> None:
    def remedy(wanted: str, existing: list[str]) -> str | None:
        return not_found("none", wanted, existing, field="x", when_empty="start here").remedy

    assert remedy("lorra", ["lora", "ssf"]) == "did you mean lora?"
    assert remedy("zzz", ["lora", "ssf"]) == "there is lora, ssf"
    assert remedy("zzz", [f"a{i}" for i in range(10)]) == "there is a0, a1, a2, a3, a4, a5, a6, a7 and 2 more"
    assert remedy("zzz", []) == "start here"
