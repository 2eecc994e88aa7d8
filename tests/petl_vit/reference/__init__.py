"""Every PETL method once more, from its equations alone, as wrapped copies of timm's own Vision Transformer.

Knows timm's modules and the tensor names of the methods; knows nothing of `petl_vit`, so that the two can
only agree by both being right. Slow and literal on purpose: prompts are concatenated, adapters stand where
the equation puts them, nothing is folded. The given tensors are used as they are, so gradients reach them.

Shapes: B images, N tokens, D width, M blocks, r rank or bottleneck, n prompts. Row vectors: x W + b.
alpha is the WiSE factor: 1 = as trained, 0 = the frozen model. LS is LayerScale, where there is one.
"""

from tests.petl_vit.reference.branches import adaptformer, convpass, houlsby, pfeiffer
from tests.petl_vit.reference.draft import Reference
from tests.petl_vit.reference.linears import dora, ia3, vera
from tests.petl_vit.reference.outputs import fact_tk, fact_tt, lora, repadapter, ssf
from tests.petl_vit.reference.parameters import bitfit, difffit, full, layernorm, linear, selective
from tests.petl_vit.reference.tokens import vpt_deep, vpt_shallow, vqt

REFERENCES: dict[str, Reference] = {
    "linear": linear,
    "bitfit": bitfit,
    "layernorm": layernorm,
    "difffit": difffit,
    "ssf": ssf,
    "lora": lora,
    "dora": dora,
    "vera": vera,
    "ia3": ia3,
    "fact_tt": fact_tt,
    "fact_tk": fact_tk,
    "repadapter": repadapter,
    "adaptformer": adaptformer,
    "pfeiffer": pfeiffer,
    "houlsby": houlsby,
    "convpass": convpass,
    "vpt_shallow": vpt_shallow,
    "vpt_deep": vpt_deep,
    "vqt": vqt,
    "selective": selective,
    "full": full,
}
