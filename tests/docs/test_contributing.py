"""The worked example of CONTRIBUTING.md is true: its method works as it stands there."""

import re
from pathlib import Path

import torch

from petl_vit.edits import fold
from petl_vit.executors.functional import Functional
from petl_vit.executors.sliced import Sliced
from petl_vit.methods.method import Method
from tests.petl_vit.backbones import family, relative

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"


def example() -> type[Method]:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, object] = {"__name__": "contributing_example"}
    exec(code[1], names)
    method = names["MLPShift"]
    assert isinstance(method, type)
    assert issubclass(method, Method)
    return method


def test_the_example_method_is_its_folded_weights() -> None:
    vit, _ = family("plain")
    method = example()()
    tensors = {n: torch.randn_like(t) for n, t in method.init(vit, torch.Generator()).items()}
    edits = method.edits(vit, tensors)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        edited = vit.forward(images, Functional(vit, edits))
        folded = vit.forward(images, Sliced(vit, [], fold(vit.params, [(edit, 1.0) for edit in edits])))
    assert relative(edited, folded) <= 1e-5


def test_the_examples_parameter_count_is_the_one_it_states() -> None:
    vit, _ = family("plain")
    assert example()().parameters(vit.arch) == vit.arch.depth * vit.arch.width
