"""The rows of a head have the classes that they were trained for: named, listed, or in a known order."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from timm.utils.misc import natural_key

from corolla.commands.adapters import adapters
from model_store.format.records import TaskRecord, TaskSpec
from model_store.interchange import foreign
from model_store.store import Store
from petl_vit.errors import InvalidInput
from tests.corolla.runner import printed
from tests.model_store.real import Real

NUMBERED = ("class1", "class10", "class11", "class2", "class3")
NATURAL = ("class1", "class2", "class3", "class10", "class11")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def real(folder: Path) -> Real:
    made = Real(Store.open(str(folder)))
    spec = TaskSpec.of(**dict(made.task.spec) | {"name": "numbered", "classes": NUMBERED})
    made.store.tasks.put(spec, made.head(1).tensors())
    return made


def task(real: Real, *classes: str) -> TaskRecord:
    return real.task.model_copy(update={"spec": real.task.spec.model_copy(update={"classes": classes})})


@pytest.mark.parametrize(
    "classes",
    [NUMBERED, ("Bee", "ant"), ("a1b10", "a1b2"), ("img12", "img9"), ("10", "2", "x"), ("ant", "bee")],
)
def test_the_natural_order_is_timms(real: Real, classes: tuple[str, ...]) -> None:
    assert foreign.rows(task(real, *classes), None, "timm")[0] == sorted(classes, key=natural_key)


def test_an_order_that_may_be_timms_is_refused_with_what_to_add(real: Real) -> None:
    with pytest.raises(InvalidInput, match=r"class2, class3.*class10, class11.*--order timm.*--classes"):
        foreign.rows(task(real, *NUMBERED), None, None, what="x", sorts_naturally=True)
    rows, notes = foreign.rows(task(real, *NUMBERED), None, None)
    assert rows == NUMBERED
    assert "--order timm takes the other" in notes[0]


def test_what_is_listed_or_named_needs_no_order(real: Real) -> None:
    numbered = task(real, *NUMBERED)
    for given in (
        foreign.rows(numbered, NATURAL, None, sorts_naturally=True),
        foreign.rows(numbered, None, None, said=NATURAL, sorts_naturally=True),
        foreign.rows(numbered, None, "timm", sorts_naturally=True),
    ):
        assert (tuple(given[0]), given[1]) == (NATURAL, [])
    with pytest.raises(InvalidInput, match="listed already"):
        foreign.rows(numbered, NATURAL, "timm")


def test_a_checkpoint_of_timm_is_registered_once_its_order_is_said(
    real: Real, folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    weights = dict(real.timm().state_dict())
    safetensors.torch.save_file({f"module.{n}": t for n, t in weights.items()}, tmp_path / "x.safetensors")
    words = ["import", str(tmp_path / "x.safetensors"), "--format", "timm", "--task", "numbered", "--name"]
    with pytest.raises(InvalidInput, match="does not name its classes"):
        printed(adapters, *words, "x", store=folder)
    printed(adapters, *words, "timms", "--order", "timm", store=folder)
    printed(adapters, *words, "tasks", "--order", "task", store=folder)
    loaded = {
        name: real.store.adapters.load(real.store.adapters.manifest("numbered", name, 1))["head.weight"]
        for name in ("timms", "tasks")
    }
    assert torch.equal(loaded["tasks"], weights["head.weight"])
    places = [NATURAL.index(name) for name in NUMBERED]
    assert torch.equal(loaded["timms"], weights["head.weight"][places])
