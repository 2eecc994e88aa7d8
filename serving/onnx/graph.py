"""The forward as an ONNX graph: the backbone's parameters, the banks and the rows' slots are its inputs.

A graph is recorded for a *mixture*: the number of edit sets of each form that a row may have. It runs all
rows whose edits are among them, whatever their adapters and methods. It holds no weights, so it is small,
quick to record, and shares the backbone with all others.

Inputs: `images` [U, 3, S, S]; `rows` [B], each row's image; `slots` and `alphas` [lanes, B], each row's slot
in the lane's bank and its alpha, 0 for none; `bank.0` ... [slots, L], one for each form; and the backbone's
parameters by timm's names. Output: `features` [B, D]. Without lanes there are no slots and alphas.
"""

import io
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from petl_vit.edit_set import EditSet
from petl_vit.errors import CorollaError
from petl_vit.executors.gathered import Gathered, Lookup
from petl_vit.vit import FrozenViT

OPSET = 18
BANK = "bank."
IMAGES, ROWS, _SLOTS = 2, 3, 4
"""Sizes of the examples that a forward is recorded with; they differ, so that none is taken for another."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """The lanes of a graph.

    Attributes:
        forms: One packed edit set of each form, on the device `meta`, so that no adapter stays in memory.
        lanes: For each lane the position of its form in `forms`, in order.
    """

    forms: tuple[EditSet, ...]
    lanes: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[int, int], forms: Mapping[int, EditSet]) -> "Mixture":
        """The mixture with a number of lanes for each form; both arguments are by the forms' numbers."""
        numbers = sorted(counts)
        lanes = [place for place, number in enumerate(numbers) for _ in range(counts[number])]
        ordered = (forms[number] for number in numbers)
        return cls(forms=tuple(form.at(form.flat.to("meta")) for form in ordered), lanes=tuple(lanes))

    @property
    def counts(self) -> Counter[int]:
        """How many lanes each form has, by its number."""
        return Counter(self.forms[place].form for place in self.lanes)

    @property
    def banks(self) -> tuple[str, ...]:
        return tuple(f"{BANK}{place}" for place in range(len(self.forms)))

    def lane(self, form: int, nth: int) -> int:
        """The lane of a row's nth edit set of a form."""
        return [self.forms[place].form for place in self.lanes].index(form) + nth


class Banked(nn.Module):
    """The forward of a mixture as a function of everything it reads, to be recorded."""

    def __init__(self, vit: FrozenViT, mixture: Mixture) -> None:
        super().__init__()
        self._vit, self._mixture = vit, mixture

    def forward(
        self,
        images: Tensor,
        rows: Tensor,
        lanes: Sequence[Tensor],
        banks: Sequence[Tensor],
        weights: Sequence[Tensor],
    ) -> Tensor:
        """[B, D].

        Args:
            lanes: Slots and alphas; empty without lanes.
        """
        params = dict(zip(self._vit.params, weights, strict=True))
        lookups = [
            Lookup(
                form=self._mixture.forms[place],
                bank=banks[place],
                slots=lanes[0][lane],
                alphas=lanes[1][lane],
            )
            for lane, place in enumerate(self._mixture.lanes)
        ]
        run = Gathered(self._vit, lookups, params)
        return self._vit.features(self._vit.patches(images, params), run, {0: rows})


def recorded(vit: FrozenViT, mixture: Mixture) -> bytes:
    """The graph of a mixture over a backbone at its image size, in its dtype, as an ONNX file."""
    size, count = vit.arch.image_size, len(mixture.lanes)
    like = vit.params["blocks.0.norm1.weight"]
    images = like.new_zeros(IMAGES, 3, size, size)
    rows = torch.zeros(ROWS, dtype=torch.int64, device=vit.device)
    lanes = [rows.expand(count, -1), like.new_ones(count, ROWS)] if count else []
    banks = [like.new_zeros(_SLOTS, len(form.flat)) for form in mixture.forms]
    sizes = {"images": {0: "images"}, "rows": {0: "rows"}, "features": {0: "rows"}}
    sizes |= {name: {1: "rows"} for name in ("slots", "alphas") if count}
    sizes |= {name: {0: f"{name}.slots"} for name in mixture.banks}
    names = ["images", "rows", *(["slots", "alphas"] if count else []), *mixture.banks, *vit.params]
    arguments = (images, rows, lanes, banks, list(vit.params.values()))
    return record(Banked(vit, mixture), arguments, names, ["features"], sizes)


def record(
    module: nn.Module,
    arguments: tuple[object, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    sizes: Mapping[str, Mapping[int, str]],
) -> bytes:
    """An ONNX file of what a module computes.

    Args:
        arguments: Examples; only their shapes count.
        sizes: Names of the dimensions that are free, by input or output.

    Raises:
        CorollaError: The package onnx is missing.
    """
    if find_spec("onnx") is None:
        raise CorollaError(
            "the package onnx is not installed", field="onnx", remedy="run pip install 'corolla[onnx]'"
        )
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # This exporter warns that it is old, of the fixed number of tokens, and of what it does not fold. The
        # newer one takes 10 to 60 s for a ViT where this one takes 1 or 2, and a server waits for it.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            arguments,
            file,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in sizes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()
