import argparse

import pytest

from benchmarks import precisions
from petl_vit.precision import Precision


@pytest.mark.parametrize(("has", "expected"), [(True, ["fp32", "bf16"]), (False, ["fp32"])])
def test_both_is_bf16_only_where_the_cpu_has_it(
    has: bool, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "has_bf16", lambda device: has)
    flags = argparse.ArgumentParser()
    precisions.add_flag(flags)

    assert precisions.chosen(flags.parse_args([]).precision) == expected
    assert precisions.chosen(flags.parse_args(["--precision", "bf16"]).precision) == ["bf16"]


def test_keys_of_fp32_keep_their_names_and_those_of_bf16_say_so() -> None:
    names = ["n_over_1", "over_copies_fp32", "over_peft_fp32_64px"]

    assert [precisions.key(name, Precision.FP32) for name in names] == names
    assert [precisions.key(name, Precision.BF16) for name in names] == [
        "n_over_1_bf16",
        "over_copies_bf16",
        "over_peft_bf16_64px",
    ]


def test_what_was_not_measured_is_null_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precisions, "has_bf16", lambda device: False)

    assert precisions.figures({Precision.FP32: {"n_over_1": 0.9}}) == {
        "n_over_1": 0.9,
        "n_over_1_bf16": None,
        "fp32_reason": None,
        "bf16_reason": precisions.NO_BF16,
    }
