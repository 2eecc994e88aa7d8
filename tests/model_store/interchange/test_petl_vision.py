"""FacT as the study's code saved it gives the logits that the study's code gives, as an adapter of fact_tt.

The reference computes the changes as that code does: FacT-TK's slab is reshaped to [r, 4 r] for fc1, its
transpose serves fc2, and every product is a linear layer of [out, in]. Knows nothing of our methods.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_store.interchange import petl_vision
from model_store.store import Store
from petl_vit.errors import Corrupt, InvalidInput, Unsupported
from tests.model_store.real import Real
from tests.petl_vit.backbones import relative

RANK, SCALE, DEPTH, WIDTH = 3, 0.7, 2, 192


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    return Real(Store.open(str(tmp_path_factory.mktemp("store"))))


class Published(nn.Module):
    """The study's FacT: one module that all blocks share."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.FacTu = nn.Linear(WIDTH, RANK, bias=False)
        self.FacTv = nn.Linear(RANK, WIDTH, bias=False)
        self.per_block_para = nn.ModuleList()
        if kind == "tk":
            self.FacTp = nn.Parameter(torch.randn(RANK, 12 * DEPTH))
            self.FacTc = nn.Parameter(torch.randn(RANK, RANK, RANK))
        else:
            for _ in range(DEPTH):
                attn = nn.ModuleList(nn.Linear(RANK, RANK, bias=False) for _ in range(4))
                mlp = nn.ModuleList(
                    [nn.Linear(RANK, 4 * RANK, bias=False), nn.Linear(4 * RANK, RANK, bias=False)]
                )
                self.per_block_para.append(nn.ModuleDict({"attn": attn, "mlp": mlp}))

    def _core(self, block: int, unit: int, x: Tensor) -> Tensor:
        if self.kind == "tt":
            core: Tensor = self.per_block_para[block]["attn"][unit](x)
            return core
        return x @ (self.FacTc @ self.FacTp[:, 12 * block : 12 * block + 4])[:, :, unit]

    def _slab(self, block: int, units: slice) -> Tensor:
        slab = self.FacTc @ self.FacTp[:, 12 * block + 4 : 12 * block + 12]
        return slab[:, :, units].reshape(RANK, 4 * RANK)

    def attention(self, block: int, x: Tensor, units: range) -> Tensor:
        parts = [self.FacTv(self._core(block, unit, self.FacTu(x))) for unit in units]
        return SCALE * torch.cat(parts, dim=2)

    def fc1(self, block: int, x: Tensor) -> Tensor:
        h = self.FacTu(x)
        h = (
            self.per_block_para[block]["mlp"][0](h)
            if self.kind == "tt"
            else h @ self._slab(block, slice(0, 4))
        )
        return SCALE * self.FacTv(h.reshape(*x.shape[:2], 4, RANK)).reshape(*x.shape[:2], 4 * WIDTH)

    def fc2(self, block: int, x: Tensor) -> Tensor:
        h = self.FacTu(x.reshape(*x.shape[:2], 4, WIDTH)).reshape(*x.shape[:2], 4 * RANK)
        h = (
            self.per_block_para[block]["mlp"][1](h)
            if self.kind == "tt"
            else h @ self._slab(block, slice(4, 8)).t()
        )
        return SCALE * self.FacTv(h)


class Added(nn.Module):
    """A linear of timm's model and the change beside it."""

    def __init__(self, base: nn.Module, change: Any) -> None:
        super().__init__()
        self.base, self.change = base, change

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        return y + self.change(x)


def published(real: Real, kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """The state dict that the study's code saves, and its model's logits."""
    torch.manual_seed(4)
    model, fact = real.timm_frozen(), Published(kind)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for block in range(DEPTH):
        for place in (f"blocks.{block}", f"blocks.{block}.attn", f"blocks.{block}.mlp"):
            state |= {f"{place}.fact.{name}": t.detach().clone() for name, t in fact.state_dict().items()}
        changes: dict[str, Any] = {
            "attn.qkv": lambda x, b=block: fact.attention(b, x, range(3)),
            "attn.proj": lambda x, b=block: fact.attention(b, x, range(3, 4)),
            "mlp.fc1": lambda x, b=block: fact.fc1(b, x),
            "mlp.fc2": lambda x, b=block: fact.fc2(b, x),
        }
        for site, change in changes.items():
            name = f"blocks.{block}.{site}"
            model.set_submodule(name, Added(model.get_submodule(name), change))
    with torch.no_grad():
        return state, model(real.images)


@pytest.mark.parametrize("kind", ["tk", "tt"])
def test_a_published_checkpoint_gives_the_published_logits(real: Real, kind: str, tmp_path: Path) -> None:
    state, expected = published(real, kind)
    torch.save({"model_state_dict": state}, tmp_path / "model.pt")
    found, notes, _ = petl_vision.read(tmp_path / "model.pt", scale=SCALE).register(
        real.store, real.task, name=f"fact-{kind}", classes=None
    )
    assert relative(real.logits(f"fact-{kind}"), expected) <= 1e-5
    assert relative(real.logits("base"), expected) > 0.1
    assert (found.manifest.method, found.manifest.config["scale"]) == ("fact_tt", SCALE)
    assert found.manifest.training["layout"] == f"FacT-{kind.upper()}"
    assert notes == ["its head's rows were taken in the order of the task's classes"]


def test_trained_tensors_alone_are_read_and_the_frozen_ones_not_compared(real: Real, tmp_path: Path) -> None:
    state, expected = published(real, "tk")
    alone = {n.removeprefix("blocks.0.fact."): t for n, t in state.items() if n.startswith("blocks.0.fact.")}
    torch.save(alone | {n: t for n, t in state.items() if n.startswith("head.")}, tmp_path / "x.pt")
    _, notes, _ = petl_vision.read(tmp_path / "x.pt", scale=SCALE).register(
        real.store, real.task, name="alone", classes=None
    )
    assert relative(real.logits("alone"), expected) <= 1e-5
    assert "no frozen weights to compare" in notes[-1]


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"blocks.1.attn.qkv.bias": torch.ones(576)}, InvalidInput, "not that of the task's backbone"),
        ({"blocks.1.mlp.fact.FacTu.weight": torch.ones(3, 192)}, Corrupt, "different 'u.weight'"),
        ({"blocks.0.lora.lora_a": torch.ones(2)}, Unsupported, "besides FacT"),
        ({"head.0.weight": torch.ones(2, 2)}, InvalidInput, "not one linear layer"),
        ({"norm.bias": torch.full((192,), float("nan"))}, Corrupt, "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(
    real: Real, tmp_path: Path, changes: dict[str, Tensor], error: type[Exception], said: str
) -> None:
    state, _ = published(real, "tk")
    torch.save({"model_state_dict": state | changes}, tmp_path / "model.pt")
    with pytest.raises(error, match=said):
        petl_vision.read(tmp_path / "model.pt", scale=SCALE).register(
            real.store, real.task, name="bad", classes=None
        )


def test_the_scale_has_to_be_given_and_other_methods_are_refused(real: Real, tmp_path: Path) -> None:
    state, _ = published(real, "tk")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(InvalidInput, match="--scale with the fact_scaler"):
        petl_vision.read(tmp_path / "model.pt", scale=None)
    torch.save({n: t for n, t in state.items() if "fact" not in n}, tmp_path / "model.pt")
    with pytest.raises(Unsupported, match="no FacT of the study's code"):
        petl_vision.read(tmp_path / "model.pt", scale=SCALE)
