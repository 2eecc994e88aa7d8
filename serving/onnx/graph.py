"""The forward as an ONNX graph: the backbone's parameters, the banks and the rows' slots are its inputs.

A graph holds a *mixture*: how many edit sets of each form a row may have. Rows whose edits are among them
run in it, whatever their adapters and methods. It holds no weights, so it is small, quick to make, and
shares the backbone with all others.

Inputs: `images` [U, 3, S, S]; `rows` [B], each row's image; `slots` and `alphas` [lanes, B], each row's
place in the lane's bank and how much of that counts, 0 for none; `bank.0` ... [slots, L], one for each
form; and the backbone's parameters by timm's names. Output: `features` [B, D]. Without lanes it has no
slots and alphas.
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
"""Sizes of what a forward is recorded on; different, so that none stands for another."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a graph has lanes for.

    Attributes:
        forms: One packed edit set of each form, on the device `meta`: no adapter is kept in memory.
        lanes: For each lane the number of its form, in order.
    """

    forms: tuple[EditSet, ...]
    lanes: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[int, int], forms: Mapping[int, EditSet]) -> "Mixture":
        """The mixture of so many lanes of each form; both are by the forms' numbers."""
        numbers = sorted(counts)
        lanes = [place for place, number in enumerate(numbers) for _ in range(counts[number])]
        found = (forms[number] for number in numbers)
        return cls(forms=tuple(form.at(form.flat.to("meta")) for form in found), lanes=tuple(lanes))

    @property
    def counts(self) -> Counter[int]:
        """How many lanes each form has, by its number."""
        return Counter(self.forms[place].form for place in self.lanes)

    @property
    def banks(self) -> tuple[str, ...]:
        return tuple(f"{BANK}{place}" for place in range(len(self.forms)))

    def lane(self, form: int, nth: int) -> int:
        """Which lane a row's nth edit set of a form goes to."""
        return [self.forms[place].form for place in self.lanes].index(form) + nth


class Banked(nn.Module):
    """The forward of a mixture with everything it reads as arguments, to be recorded."""

    def __init__(self, vit: FrozenViT, mixture: Mixture) -> None:
        super().__init__()
        self._vit, self._mixture = vit, mixture

    def forward(
        self,
        images: Tensor,
        rows: Tensor,
        chosen: Sequence[Tensor],
        banks: Sequence[Tensor],
        weights: Sequence[Tensor],
    ) -> Tensor:
        """[B, D].

        Args:
            chosen: Slots and alphas; nothing without lanes.
        """
        params = dict(zip(self._vit.params, weights, strict=True))
        lookups = [
            Lookup(
                form=self._mixture.forms[place],
                bank=banks[place],
                slots=chosen[0][lane],
                alphas=chosen[1][lane],
            )
            for lane, place in enumerate(self._mixture.lanes)
        ]
        run = Gathered(self._vit, lookups, params)
        return self._vit.features(self._vit.patches(images, params), run, {0: rows})


def recorded(vit: FrozenViT, mixture: Mixture) -> bytes:
    """The graph of a mixture over a backbone at its image size, in its dtype, as an ONNX file."""
    size, lanes = vit.arch.image_size, len(mixture.lanes)
    like = vit.params["pos_embed"]
    images = like.new_zeros(IMAGES, 3, size, size)
    rows = torch.zeros(ROWS, dtype=torch.int64, device=vit.device)
    chosen = [rows.expand(lanes, -1), like.new_ones(lanes, ROWS)] if lanes else []
    banks = [like.new_zeros(_SLOTS, len(form.flat)) for form in mixture.forms]
    sizes = {"images": {0: "images"}, "rows": {0: "rows"}, "features": {0: "rows"}}
    sizes |= {name: {1: "rows"} for name in ("slots", "alphas") if lanes}
    sizes |= {name: {0: f"{name}.slots"} for name in mixture.banks}
    names = ["images", "rows", *(["slots", "alphas"] if lanes else []), *mixture.banks, *vit.params]
    arguments = (images, rows, chosen, banks, list(vit.params.values()))
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
        # Of its age, of the number of tokens, which is fixed, and of what it does not fold. The newer
        # exporter takes 10 to 60 s for a ViT where this one takes 1 or 2, and a server waits for it.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            arguments,
            file,  # type: ignore[arg-type]  # which this exporter takes too
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in sizes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()
