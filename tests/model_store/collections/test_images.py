import pytest

from model_store.place.objects import Objects
from model_store.store import Store
from petl_vit.errors import Corrupt

A, B = "a" * 64, "b" * 64


@pytest.fixture
def store() -> Store:
    return Store(Objects.open("memory:///"))


def test_what_was_learnt_is_the_union_of_the_training_sets(store: Store) -> None:
    store.images.put(A, ["0" * 16, "1" * 16, "1" * 16])
    store.images.put(B, ["2" * 16])
    assert store.images.of({"data_digest": A}) == {"0" * 16, "1" * 16}
    assert store.images.of({"data_digests": [A, B]}) == {"0" * 16, "1" * 16, "2" * 16}
    assert store.images.of({"data_digests": []}) == frozenset()


def test_what_is_not_recorded_is_not_taken_for_nothing(store: Store) -> None:
    store.images.put(A, ["0" * 16])
    for training in ({}, {"data_digest": B}, {"data_digests": [A, B]}, {"imported": "x"}):
        assert store.images.of(training) is None  # type: ignore[arg-type]
    store.images.put(B, ["2" * 16])
    assert store.images.of({"data_digests": [A, B]}) == {"0" * 16, "2" * 16}


def test_a_damaged_list_is_named(store: Store) -> None:
    store.place.create(f"images/{A}", b"what?\n")
    with pytest.raises(Corrupt, match=f"images/{A}: it is not a list of fingerprints; remove the file"):
        store.images.of({"data_digest": A})
