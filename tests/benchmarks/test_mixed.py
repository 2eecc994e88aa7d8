from dataclasses import replace

import pytest

from benchmarks import mixed
from benchmarks.mixed import BASE, DORA, GLU, MIXED, ONE, PLAIN, PRODUCTS, ROPE, SMALL, SUMS, TINY, Setting
from petl_vit.precision import Precision


@pytest.mark.benchmarks
def test_every_variant_is_measured_in_bf16_too() -> None:
    others = [ONE, PRODUCTS, mixed.FULL, DORA, SUMS]
    setting = Setting(architecture="test_vit", image_size=32, rounds=2, others=others)

    taken = mixed.measure(setting, Precision.BF16)

    assert {name: len(seconds) for name, seconds in taken.items()} == dict.fromkeys(
        (PLAIN, MIXED, *others), 2
    )


@pytest.mark.benchmarks
@pytest.mark.parametrize("title", [ROPE, GLU])
def test_rotary_and_gated_backbones_run_as_timm_makes_them(title: str) -> None:
    setting = mixed.settings(quick=True)[title]
    narrow = setting.options | {"depth": 2, "embed_dim": 48, "num_heads": 3}

    taken = mixed.measure(
        replace(setting, image_size=56 if title == GLU else 48, options=narrow, rounds=1), Precision.FP32
    )

    assert taken.keys() == {PLAIN, MIXED}


def test_the_slower_backbone_counts_and_products_are_a_share_of_the_forward() -> None:
    small = {PLAIN: [3.0], MIXED: [2.0], ONE: [2.0], PRODUCTS: [1.0], DORA: [2.0], SUMS: [4.0]}
    tiny = {PLAIN: [4.0], MIXED: [4.0], PRODUCTS: [3.0], DORA: [3.0], SUMS: [4.0]}
    rope, gated = {PLAIN: [1.0], MIXED: [2.0]}, {PLAIN: [1.0], MIXED: [4.0]}

    found = mixed.figures(
        {SMALL: small, TINY: tiny, BASE: {PLAIN: [1.0], MIXED: [1.0]}, ROPE: rope, GLU: gated}
    )

    values = {name: getattr(found[name], "value", None) for name in found}
    assert values["mixed_over_plain"] == 1.0
    assert values["mixed_over_plain_rope"] == 0.5
    assert values["mixed_over_plain_glu"] == 0.25
    assert values["dora_over_lora_ssf"] == 0.75
    assert values["mixed_over_products"] == 0.5
    assert values["mixed_over_products_64px"] == 0.75
    assert found["with_full_over_plain"] is None
