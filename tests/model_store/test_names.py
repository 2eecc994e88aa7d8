import pytest

from model_store.names import (
    check_backbone_name,
    check_digest,
    check_name,
    check_printable,
    class_name,
    differences,
    not_found,
    printable,
    text_of,
)
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


@pytest.mark.parametrize(
    "text", ["Mu\u0308ll", "M\u00fcll", " M\u00fcll ", "\ufeffM\u00fcll", "M\u00fcll\u00a0"]
)
def test_a_class_has_one_spelling(text: str) -> None:
    assert class_name(text) == "M\u00fcll"


def test_letters_that_only_look_alike_stay_what_they_are() -> None:
    assert class_name("\ufb01sh") != class_name("fish")
    assert class_name("Cat") != class_name("cat")


def test_classes_that_differ_by_a_letter_stand_beside_each_other() -> None:
    told = differences(["rose", "tulips", "fox"], ["rose", "tulip", "eel"], whose="task")
    assert told == "tulips (task: tulip), eel, fox"
    assert differences(["\u0441at"], ["cat"], whose="task") == r"'\u0441at' (task: 'cat')"
    assert differences(map(str, range(10)), [], whose="task") == "0, 1, 2, 3, 4 and 5 more"


def test_bytes_that_are_not_utf_8_are_escaped_or_refused() -> None:
    assert printable("caf\udce9.png") == r"caf\xe9.png"
    assert check_printable("caf\u00e9", "data") == printable("caf\u00e9") == "caf\u00e9"
    with pytest.raises(InvalidInput, match=r"the name caf\\xe9 is not UTF-8") as caught:
        check_printable("caf\udce9", "data")
    assert (caught.value.field, caught.value.remedy) == ("data", "rename it, for example with convmv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_not_part_of_a_text(encoding: str) -> None:
    assert text_of("M\u00fcll\ncat".encode(encoding)) == "M\u00fcll\ncat"
