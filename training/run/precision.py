"""What training computes in: the frozen backbone in fp32 or bf16; what is trained is always fp32."""

import copy

import torch

from petl_vit.errors import Unsupported
from petl_vit.products import in_bf16
from petl_vit.vit import FrozenViT
from training.run.recipe import Precision


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuse bf16 on a GPU that only emulates it.

    Raises:
        Unsupported: It does.
    """
    native = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "bf16" and not native:
        raise Unsupported(
            "this GPU does not compute in bf16", field="precision", remedy="use --precision fp32"
        )


def frozen(vit: FrozenViT, precision: Precision, device: torch.device | None = None) -> FrozenViT:
    """The backbone as training runs it, on its own device if none is named.

    With bf16 its linears and its patch convolution are bfloat16, nearly all of its bytes. Norms, LayerScale
    and embeddings stay float32, as the residual stream does.
    """
    params = in_bf16(vit.params) if precision == "bf16" else vit.params
    placed = copy.copy(vit)
    placed.params = {name: p.to(device=device) for name, p in params.items()}
    return placed
