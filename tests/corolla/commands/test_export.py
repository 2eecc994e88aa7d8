"""`corolla export onnx`: files that ONNX Runtime alone answers from, as the engine does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from corolla import command
from model_store.resolution.loading import Loader
from petl_vit.batch import Batch, Row
from serving.onnx import export
from serving.onnx.export import Exported
from tests.petl_vit.backbones import relative
from tests.serving.world import METHODS, SIZE, World

pytestmark = pytest.mark.onnx

IMAGES = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


class Shell:
    def __init__(self, world: World, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.world, self.folder, self._capsys = world, folder, capsys

    def __call__(self, *words: object) -> str:
        """What the command says."""
        code, out, err = self.run(*words)
        assert code == 0, err
        return out + err

    def refused(self, *words: object) -> str:
        code, out, err = self.run(*words)
        assert (code, out) == (2, ""), (code, out, err)
        return err

    def run(self, *words: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = command.run(["export", "onnx", "--store", str(self.world.folder), *map(str, words)])
        said = self._capsys.readouterr()
        return code, said.out, said.err


@pytest.fixture
def shell(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(world, tmp_path, capsys)


def answers(file: Path, **inputs: torch.Tensor) -> torch.Tensor:
    """The logits that ONNX Runtime gives from a file alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    assert {i.name for i in session.get_inputs()} == inputs.keys()
    (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in inputs.items()})
    assert isinstance(logits, np.ndarray)
    return torch.from_numpy(logits)


def engine(world: World, route: str, images: torch.Tensor, task: str = "shapes") -> torch.Tensor:
    """The logits of our own engine, of a route of one member."""
    loader = Loader(world.store, world.backbone)
    resolved = world.resolve(route, task)
    (model,) = loader.models(resolved)
    rows = [Row(image=i, model=model) for i in range(len(images))]
    return torch.stack(Batch(loader.vit(SIZE)).logits(images, rows))


def document(file: Path) -> Any:
    return json.loads(file.with_suffix(".json").read_text())


# One model


@pytest.mark.parametrize("method", METHODS)
def test_every_method_becomes_a_file_that_answers_as_the_engine(shell: Shell, method: str) -> None:
    out, route = shell.folder / "new" / "one.onnx", f"0.7*{method}"

    assert "is in" in shell(route, "--task", "shapes", "--out", out)

    for images in (IMAGES, IMAGES[:1]):
        assert relative(answers(out, images=images), engine(shell.world, route, images)) <= 1e-4
    about = document(out)
    assert about["route"] == f"0.7*{method}:{about['route'].rpartition(':')[2]}"
    assert about["classes"] == ["circle", "square", "star"]
    assert about["inputs"]["images"]["shape"] == ["images", 3, SIZE, SIZE]


def test_a_sum_of_methods_that_fold_and_others_is_one_file(shell: Shell) -> None:
    out, route = shell.folder / "sum.onnx", "0.5*full + 0.3..0.6*vpt-deep + 0.2[1]*convpass"

    shell(route, "--task", "shapes", "--out", out)

    assert relative(answers(out, images=IMAGES), engine(shell.world, route, IMAGES)) <= 1e-4


def test_a_named_route_is_exported_as_it_answers_with_its_temperature(
    own_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        export, "plain", lambda loader, member: Exported(graph=b"", document={"route": str(member)})
    )
    shell, out = Shell(own_world, tmp_path, capsys), tmp_path / "live.onnx"
    own_world.put_route("ssf", "0.5*lora:1", temperature=3.0)

    shell("ssf", "--task", "shapes", "--out", out)

    about = document(out)
    assert (about["named"], about["route"]) == ("shapes/ssf", "0.5*lora:1")
    assert (about["temperature"], about["route_note"]) == (3.0, "")
    shell("ssf@latest", "--task", "shapes", "--out", out, "--overwrite")
    assert document(out) == {"route": "ssf:1"}


# Many adapters


def test_all_adapters_of_a_task_mix_in_one_run_of_the_file(shell: Shell) -> None:
    out, names = shell.folder / "bank.onnx", ["lora:1", "lora:2", "ssf", "adaptformer", "vpt-deep", "linear"]

    said = shell("--bank", *names, "--task", "shapes", "--out", out)

    assert "6 adapters are in" in said
    lanes = document(out)["lanes"]
    assert sorted(len(lane) for lane in lanes) == [1, 1, 1, 1, 2]
    routes = [*(f"0.6*{name}" for name in names), "base", "0.5*lora:2 + 0.4*linear"]
    slots, alphas = torch.zeros(len(lanes), len(routes)).long(), torch.zeros(len(lanes), len(routes))
    for row, route in enumerate(routes[:-2]):
        lane, slot = _place(shell.world, lanes, route)
        slots[lane, row], alphas[lane, row] = slot, 0.6
    for route, alpha in (("lora:2", 0.5), ("linear", 0.4)):
        lane, slot = _place(shell.world, lanes, route)
        slots[lane, -1], alphas[lane, -1] = slot, alpha
    rows = torch.arange(len(routes)) % len(IMAGES)

    found = answers(out, images=IMAGES, rows=rows, slots=slots, alphas=alphas)

    for z, route, image in zip(found, routes, rows, strict=True):
        expected = engine(shell.world, route, IMAGES[image : image + 1])[0]
        assert relative(z, expected) <= 1e-4, route


def _place(world: World, lanes: Any, route: str) -> tuple[int, int]:
    (term,) = world.resolve(route).terms()
    return next(
        (number, entry["slot"])
        for number, lane in enumerate(lanes)
        for entry in lane
        if entry["digest"] == term.digest
    )


def test_without_names_it_is_all_that_stack_and_the_rest_is_named(own_world: World, shell: Shell) -> None:
    shell.world = own_world
    for name in ("lora", "linear", "full"):
        own_world.publish("reordered", name, seed=4)

    said = shell("--bank", "--task", "reordered", "--out", shell.folder / "b.onnx", "--json")

    about = json.loads(said)
    assert about == document(shell.folder / "b.onnx") | {"out": str(shell.folder / "b.onnx")}
    inside = {entry["adapter"] for lane in about["lanes"] for entry in lane}
    assert inside == {"reordered/lora:2", "reordered/linear:1"}
    assert about["left_out"] == ["reordered/full:1"]


# What it refuses


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["lora, ssf"], "ensemble"),
        (["lora", "ssf"], "the file holds one"),
        ([], "the file holds one"),
        (["1.5*lora"], "outside"),
        (["nobody"], "nobody"),
        (["--bank", "lora", "full"], "shapes/full:1 stacks with nothing"),
        (["--bank", "full"], "no adapter can be stacked"),
        (["--bank", "lora", "colours/lora"], "another task"),
        (["--bank", "reordered/lora"], "reordered/lora:1 is not of task 'shapes'; give reordered"),
        (["reordered/lora"], "answers in the classes of its own task, not in those of 'shapes'"),
    ],
)
def test_what_cannot_be_one_file_is_refused_by_name(shell: Shell, words: list[str], problem: str) -> None:
    out = shell.folder / "no.onnx"

    assert problem in shell.refused(*words, "--task", "shapes", "--out", out)
    assert not out.exists()


def test_no_file_is_replaced_unasked(shell: Shell) -> None:
    out = shell.folder / "one.onnx"
    out.with_suffix(".json").write_text("mine")

    assert "--overwrite" in shell.refused("linear", "--task", "shapes", "--out", out)
    assert not out.exists()
    shell("linear", "--task", "shapes", "--out", out, "--overwrite")
    assert document(out)["task"] == "shapes"


def test_without_the_package_onnx_the_extra_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.onnx.graph.find_spec", lambda name: None)

    said = shell.refused("linear", "--task", "shapes", "--out", shell.folder / "no.onnx")

    assert "corolla[onnx]" in said
