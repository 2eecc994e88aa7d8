"""Methods that move timm's own parameters."""

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tests.petl_vit.reference.draft import Draft, reference


def parameter_names(model: VisionTransformer) -> set[str]:
    """Every parameter but the head's."""
    return {name for name, _ in model.named_parameters() if not name.startswith("head.")}


def bias_names(model: VisionTransformer) -> set[str]:
    """Biases of patch embedding, qkv, W_o, fc1, fc2 and of every LayerNorm, where the model has them."""
    return {name for name in parameter_names(model) if name.endswith(".bias")}


def norm_names(model: VisionTransformer) -> set[str]:
    """Weight and bias of every LayerNorm."""
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)]
    return {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")}


@reference
def linear(draft: Draft) -> None:
    """Only the head is trained: the feature is the frozen one."""


@reference
def bitfit(draft: Draft) -> None:
    """b(alpha) = (1 - alpha) b0 + alpha b1 for all biases."""
    draft.move(bias_names(draft.vit))


@reference
def layernorm(draft: Draft) -> None:
    """(w, b)(alpha) = (1 - alpha) (w, b)0 + alpha (w, b)1 for all LayerNorms."""
    draft.move(norm_names(draft.vit))


@reference
def full(draft: Draft) -> None:
    """theta(alpha) = (1 - alpha) theta0 + alpha theta1 over all parameters."""
    draft.move(parameter_names(draft.vit))


@reference
def selective(draft: Draft) -> None:
    """theta(alpha) = (1 - alpha) theta0 + alpha theta1 over the parameters that are given."""
    draft.move(draft.left)


class Gained(nn.Module):
    """LayerScale's place after a linear (W, b0): (1 - alpha) LS(x W + b0) + alpha g * LS(x W + b1)."""

    def __init__(
        self, scale: nn.Module, last: nn.Linear, gain: Tensor, bias: Tensor | None, alpha: float
    ) -> None:
        super().__init__()
        self.scale, self.last, self.gain, self.bias, self.alpha = scale, last, gain, bias, alpha

    def forward(self, x: Tensor) -> Tensor:
        frozen: Tensor = self.scale(self.last(x))
        tuned: Tensor = self.scale(F.linear(x, self.last.weight, self.bias))
        return (1.0 - self.alpha) * frozen + self.alpha * self.gain * tuned


@reference
def difffit(draft: Draft) -> None:
    """X <- X + g1 * LS(Attn(LN1 X)); X <- X + g2 * LS(MLP(LN2 X)); all biases and LayerNorms tuned.

    At alpha the folded weights are interpolated: W_o from W_o to W_o diag(g1), b_o from b0 to g1 * b1.
    """
    moved = bias_names(draft.vit) | norm_names(draft.vit)
    for block in [f"blocks.{block}" for block in range(draft.depth)]:
        _gain(draft, f"{block}.attn.proj", f"{block}.ls1", f"{block}.gain1")
        _gain(draft, f"{block}.mlp.fc2", f"{block}.ls2", f"{block}.gain2")
        moved -= {f"{block}.attn.proj.bias", f"{block}.mlp.fc2.bias"}
    draft.move(moved)


def _gain(draft: Draft, last: str, scale: str, gain: str) -> None:
    """Move the sublayer's last linear behind the sublayer, where its gain and LayerScale are."""
    layer = draft.vit.get_submodule(last)
    bias = None if layer.bias is None else draft.take(f"{last}.bias")
    draft.vit.set_submodule(last, nn.Identity())
    draft.wrap(scale, Gained, layer, draft.take(gain), bias, draft.alpha)
