import pytest

from petl_vit.errors import InvalidInput
from training.data.shift import GRADED, IMAGENET_C, parse, parse_all


def test_the_graded_shifts_and_the_corruptions_of_imagenet_c_are_named() -> None:
    assert GRADED == ("noise", "blur", "rotation", "contrast")
    assert len(IMAGENET_C) == len(set(IMAGENET_C)) == 15
    assert not set(GRADED) & set(IMAGENET_C)


def test_a_shift_may_be_named_with_its_suite() -> None:
    assert parse("fog:2") == parse("imagenet-c/fog:2") == ("fog", 2)
    assert parse("contrast:3") == parse("graded/contrast:3") == ("contrast", 3)
    assert parse("imagenet-c/contrast:3") == ("imagenet-c/contrast", 3)


def test_a_suite_is_all_its_shifts_at_all_severities_or_at_one() -> None:
    every = parse_all(["imagenet-c"])
    assert len(every) == 75
    assert every[:2] == [("gaussian_noise", 1), ("shot_noise", 1)]
    assert parse_all(["imagenet-c:3"]) == [(name, 3) for name in IMAGENET_C]
    assert parse_all(["graded:1", "fog:2"]) == [*((name, 1) for name in GRADED), ("fog", 2)]


def test_a_shift_that_is_asked_for_twice_is_measured_once() -> None:
    assert parse_all(["fog:3", "imagenet-c:3", "fog:3"]) == [
        ("fog", 3),
        *((name, 3) for name in IMAGENET_C if name != "fog"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nois:1", "did you mean noise"),
        ("imagenetc:3", "did you mean imagenet-c"),
        ("imagenet-c/fgo:3", "the shift 'imagenet-c/fgo' is unknown"),
        ("graded/fog:3", "the shift 'graded/fog' is unknown"),
        ("zzz:1", "choose one of noise, blur, rotation, contrast, gaussian_noise"),
        ("noise", "'noise' is not a shift; write NAME:SEVERITY, e.g. noise:3, or a suite: imagenet-c"),
        ("imagenet-c:", "'imagenet-c:' is not a shift"),
        ("imagenet-c:x", "'imagenet-c:x' is not a shift"),
        ("noise:-1", "'noise:-1' is not a shift"),
        ("noise:0", "choose 1 to 5"),
        ("imagenet-c:6", "choose 1 to 5"),
    ],
)
def test_what_is_no_shift_is_refused_with_a_remedy(text: str, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_all([text])
    assert says in str(refused.value)
