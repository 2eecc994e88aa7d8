"""A recipe that cannot be is refused with the field and the remedy."""

import pytest

from petl_vit.errors import InvalidInput
from training.merges.recipe import Recipe


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("ties", {"density": 0.0}, "density: 0.0 is no share of the changes; use one above 0 and up to 1"),
        ("ties", {"density": 1.5}, "density: 1.5 is no share"),
        ("ties", {"density": float("nan")}, "density: nan is no share"),
        ("dare", {"drop_rate": 1.0}, "drop_rate: 1.0 is no share to drop; use one from 0 to below 1"),
        ("dare", {"drop_rate": -0.1}, "drop_rate: -0.1 is no share to drop"),
        ("dare", {"drop_rate": float("nan")}, "drop_rate: nan is no share to drop"),
        ("dare", {"seed": -1}, "seed: -1 is no seed"),
        ("tsv", {"rank": 0}, "rank: a rank of 0 keeps nothing; use 1 or more"),
        ("model-stock", {"rank": -3}, "rank: a rank of -3 keeps nothing"),
        ("tsv", {"density": 0.2}, "density: tsv has no such setting; leave it out, or use ties"),
        ("tsv", {"drop_rate": 0.2}, "drop_rate: tsv has no such setting; leave it out, or use dare or ties"),
        ("ties", {"seed": 1}, "seed: ties draws no random numbers"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(kind: str, settings: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Recipe.of(kind, **settings)  # type: ignore[arg-type]
    assert said in str(refused.value)


def test_what_is_recorded_is_what_counts_for_the_kind() -> None:
    assert Recipe.of("ties").settings == {"density": 0.2}
    assert Recipe.of("dare").settings == {"drop_rate": 0.5, "seed": 0}
    assert Recipe.of("ties", drop_rate=0.3, seed=2, rank=4).settings == {
        "density": 0.2,
        "drop_rate": 0.3,
        "seed": 2,
        "rank": 4,
    }
    assert Recipe.of("tsv").settings == Recipe.of("model-stock").settings == {}
