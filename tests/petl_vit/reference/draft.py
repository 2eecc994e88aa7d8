"""The change of a private copy of timm's model, and the references' own interpolation."""

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.func import functional_call

Config = Mapping[str, Any]
Reference = Callable[[VisionTransformer, Mapping[str, Tensor], Config, float], nn.Module]


class Feature(nn.Module):
    """images [B, 3, S, S] -> timm's pooled feature [B, D]."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        feature: Tensor = self.vit.forward_head(self.vit.forward_features(images), pre_logits=True)
        return feature


class Moved(nn.Module):
    """The feature with some of timm's parameters at (1 - alpha) w0 + alpha w1."""

    def __init__(self, vit: VisionTransformer, tuned: Mapping[str, Tensor], alpha: float) -> None:
        super().__init__()
        self.feature = Feature(vit)
        self.tuned = {f"vit.{name}": tensor for name, tensor in tuned.items()}
        self.alpha = alpha

    def forward(self, images: Tensor) -> Tensor:
        frozen = self.feature.state_dict()
        weights = {n: (1.0 - self.alpha) * frozen[n] + self.alpha * w for n, w in self.tuned.items()}
        feature: Tensor = functional_call(self.feature, weights, images)
        return feature


class Draft:
    """A private copy of the frozen model under change, and the tensors that no change has used yet."""

    def __init__(
        self, model: VisionTransformer, tensors: Mapping[str, Tensor], config: Config, alpha: float
    ) -> None:
        self.vit = copy.deepcopy(model).eval().requires_grad_(False)
        self.alpha = alpha
        self.config = config
        self._left = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
        self._tuned: dict[str, Tensor] = {}

    @property
    def depth(self) -> int:
        return len(self.vit.blocks)

    @property
    def factor(self) -> float:
        """alpha s, for methods with a scale."""
        return self.alpha * float(self.config["scale"])

    @property
    def left(self) -> set[str]:
        return set(self._left)

    def take(self, name: str) -> Tensor:
        like = next(self.vit.parameters())
        return self._left.pop(name).to(device=like.device, dtype=like.dtype)

    def wrap(self, site: str, wrapper: Callable[..., nn.Module], *rest: Any) -> None:
        """Put wrapper(module, *rest) in the place of the module called `site`."""
        self.vit.set_submodule(site, wrapper(self.vit.get_submodule(site), *rest))

    def move(self, names: set[str]) -> None:
        """Let these parameters of timm go to the tensors of their names; ValueError on another shape."""
        for name in names:
            tuned, frozen = self.take(name), self.vit.get_parameter(name)
            if tuned.shape != frozen.shape:
                raise ValueError(f"{name} has shape {tuple(frozen.shape)}, not {tuple(tuned.shape)}")
            self._tuned[name] = tuned

    def finish(self) -> nn.Module:
        """Raise ValueError where a tensor has found no use, since a comparison would then prove nothing."""
        if self._left:
            raise ValueError(f"the method has no such tensors: {sorted(self._left)}")
        return Moved(self.vit, self._tuned, self.alpha).eval()


def reference(change: Callable[[Draft], None]) -> Reference:
    """The reference that makes this change to a copy of the model."""

    @functools.wraps(change)
    def build(
        model: VisionTransformer, tensors: Mapping[str, Tensor], config: Config, alpha: float
    ) -> nn.Module:
        draft = Draft(model, tensors, config, alpha)
        change(draft)
        return draft.finish()

    return build
