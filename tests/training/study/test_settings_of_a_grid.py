"""Settings of a grid that no trial could have."""

from dataclasses import replace

import pytest

from model_store.store import Store
from petl_vit.errors import InvalidInput
from tests.training.study.conftest import Shown, grid
from training.study.session import Sweep
from training.study.sweep import run


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rank": (0,)}, "grid: rank of lora: input should be greater than or equal to 1 (got 0); "),
        ({"learning_rate": (2.0,)}, "grid: lr of lora: input should be less than or equal to 1 (got 2.0)"),
        ({"head_rate": (-1.0,)}, "grid: head_lr of lora: "),
    ],
)
def test_a_value_that_cannot_work_is_named_once_as_the_file_spells_it(
    store: Store, sweep: Sweep, settings: dict[str, tuple[float, ...]], said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        run(store, replace(sweep, methods=("lora",), grid=grid(lora=settings)), Shown())
    assert str(caught.value).startswith(said)
    assert str(caught.value).count("settings of lora") <= 1
    assert "lora.rank" not in str(caught.value)
