"""timm's tensors under the names that transformers gives them, written down from its modules."""

import torch
from torch import Tensor

_OUTSIDE = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
_VIT = {"norm1": "layernorm_before", "norm2": "layernorm_after"}


def spelled(tensors: dict[str, Tensor], *, release: int) -> dict[str, Tensor]:
    """A ViT, or a DINOv2 where it has LayerScale, as releases 4 or 5 of transformers name it."""
    dinov2 = any(name.endswith(".gamma") for name in tensors)
    prefix = "" if dinov2 else "vit."
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith("head."):
            found[name.replace("head", "classifier")] = tensor
        elif not name.startswith("blocks."):
            found[prefix + _OUTSIDE[name]] = tensor
        else:
            _, block, rest = name.split(".", 2)
            layer = f"{prefix}{'layers' if release == 5 and not dinov2 else 'encoder.layer'}.{block}"
            found |= {f"{layer}.{n}": t for n, t in _in_layer(rest, tensor, dinov2, release).items()}
    if "embeddings.register_tokens" in found:  # transformers' position covers the class token, too
        position = found["embeddings.position_embeddings"]
        of_class = torch.full((1, 1, position.shape[-1]), 0.25)
        found["embeddings.position_embeddings"] = torch.cat([of_class, position], dim=1)
        found["embeddings.cls_token"] = found["embeddings.cls_token"] - of_class
    unused = "embeddings.mask_token" if dinov2 else "vit.pooler.dense.bias"
    return found | {unused: torch.ones(1, 12)}


def _in_layer(rest: str, tensor: Tensor, dinov2: bool, release: int) -> dict[str, Tensor]:
    module, _, kind = rest.rpartition(".")
    if module == "attn.qkv":
        new, old = ("q_proj", "k_proj", "v_proj"), ("attention.query", "attention.key", "attention.value")
        parts = zip(new if release == 5 else old, tensor.chunk(3), strict=True)
        return {f"attention.{part}.{kind}": t.clone() for part, t in parts}
    if module == "attn.proj":
        return {f"attention.{'o_proj' if release == 5 else 'output.dense'}.{kind}": tensor}
    if module in ("mlp.fc1", "mlp.fc2") and not dinov2 and release == 4:
        return {f"{'intermediate' if module == 'mlp.fc1' else 'output'}.dense.{kind}": tensor}
    if module in ("ls1", "ls2"):
        return {f"layer_scale{module[-1]}.lambda1": tensor}
    return {f"{module if dinov2 else _VIT.get(module, module)}.{kind}": tensor}
