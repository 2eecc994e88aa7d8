"""Data with other classes than the task under which it is trained."""

from pathlib import Path

import pytest

from model_store.store import Store
from petl_vit.errors import InvalidInput
from tests.training.conftest import imported, write_npz
from training.data.sources import load_dataset
from training.run.task import check_spec, new_spec
from training.run.transform import Input


@pytest.mark.parametrize(
    ("classes", "said", "remedy"),
    [
        (
            ("digit 0", "digit 1", "digit 2", "house"),
            "has no images of house, which task 'mine' has",
            "every",
        ),
        (("digit 0", "digit 1"), "it does not have digit 2", "leave them out"),
        (("digit 0", "digit 1", "house"), "(only in ", "another --task"),
        (("digit 0", "digit 1", "house"), ": 1, only in the task: 1)", "another --task"),
    ],
)
def test_the_error_says_which_side_lacks_a_class(
    store: Store, tmp_path: Path, classes: tuple[str, ...], said: str, remedy: str
) -> None:
    dataset = load_dataset(write_npz(tmp_path / "three.npz", classes=3))
    spec = new_spec("mine", classes, imported(store, depth=1), Input())
    with pytest.raises(InvalidInput) as caught:
        check_spec(spec, dataset, Input())
    assert said in caught.value.problem
    assert remedy in (caught.value.remedy or "")
