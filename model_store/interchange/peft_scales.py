"""Types of PEFT that train vectors: IA3 and LN-tuning.

IA3 (arXiv 2205.05638) multiplies a linear's output, bias included, by l, or a feed-forward linear's input.
LN-tuning (arXiv 2312.11420) has LayerNorms of its own in place of the frozen ones.
Source: peft.tuners of 0.21.
"""

from collections.abc import Sequence

from model_store.interchange.peft_change import Change, Module, Norm, Scale, Turn
from model_store.interchange.peft_type import Reading, a_type


def _ia3(module: Module, reading: Reading) -> Sequence[Change]:
    scale = module.get("ia3_l", None, None)
    if len(scale) == 1:
        return [Turn(diagonal=module.get("ia3_l", 1, module.into).flatten() - 1)]
    return [Scale(scale=module.get("ia3_l", module.out, 1).flatten())]


def _ln_tuning(module: Module, reading: Reading) -> Sequence[Change]:
    weight = module.get("ln_tuning_layers", module.out)
    bias = module.get("ln_tuning_layers.bias", module.out)
    return [Norm(weight=weight - module.weight, bias=bias - module.bias)]


TYPES = {
    "IA3": a_type("IA3", "ia3_", "feedforward_modules init_ia3_weights", _ia3),
    "LN_TUNING": a_type("LN-tuning", "ln_tuning_", "", _ln_tuning),
}
"""The types, by PEFT's names."""
