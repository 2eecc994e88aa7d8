import pytest

from benchmarks import mixed
from benchmarks.mixed import BASE, MIXED, ONE, PLAIN, PRODUCTS, SMALL, TINY, Setting
from petl_vit.precision import Precision


@pytest.mark.benchmarks
def test_every_variant_is_measured_in_bf16_too() -> None:
    setting = Setting(architecture="test_vit", image_size=32, rounds=2, others=[ONE, PRODUCTS, mixed.FULL])

    taken = mixed.measure(setting, Precision.BF16)

    assert {name: len(seconds) for name, seconds in taken.items()} == dict.fromkeys(
        (PLAIN, MIXED, ONE, mixed.FULL, PRODUCTS), 2
    )


def test_the_slower_backbone_counts_and_products_are_a_share_of_the_forward() -> None:
    small = {PLAIN: [3.0], MIXED: [2.0], ONE: [2.0], PRODUCTS: [1.0]}
    tiny = {PLAIN: [4.0], MIXED: [4.0], PRODUCTS: [3.0]}

    found = mixed.figures({SMALL: small, TINY: tiny, BASE: {PLAIN: [1.0], MIXED: [1.0]}})

    values = {name: getattr(found[name], "value", None) for name in found}
    assert values["mixed_over_plain"] == 1.0
    assert values["mixed_over_products"] == 0.5
    assert values["mixed_over_products_64px"] == 0.75
    assert found["with_full_over_plain"] is None
