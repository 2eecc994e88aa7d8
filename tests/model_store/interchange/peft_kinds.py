"""Random adapters of PEFT's types on a small ViT of timm, each with what PEFT itself makes of it.

`python -m tests.model_store.interchange.peft_kinds` prints the table of docs/interchange.md.
"""

import copy
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_store.interchange import peft_types
from model_store.store import Store
from tests.model_store.real import Real
from tests.petl_vit.backbones import relative

ALL = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
LORA = {"r": 3, "lora_alpha": 5}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "DoRA": ("Lora", LORA | {"use_dora": True}),
    "rsLoRA": ("Lora", LORA | {"use_rslora": True}),
    "LoRA, biases of its linears": ("Lora", LORA | {"bias": "lora_only"}),
    "LoRA, all biases": ("Lora", LORA | {"bias": "all"}),
    "LoRA, lora_bias": ("Lora", LORA | {"lora_bias": True}),
    "DoRA, all biases": ("Lora", LORA | {"use_dora": True, "bias": "all"}),
    "PiSSA": ("Lora", LORA | {"init_lora_weights": "pissa"}),
    "PiSSA with DoRA": ("Lora", LORA | {"init_lora_weights": "pissa", "use_dora": True}),
    "OLoRA": ("Lora", LORA | {"init_lora_weights": "olora"}),
    "AdaLoRA": ("AdaLora", {"init_r": 6, "target_r": 3, "lora_alpha": 5, "total_step": 10}),
    "VeRA": ("Vera", {"r": 5}),
    "VeRA, projections left out": ("Vera", {"r": 5, "save_projection": False}),
    "IA3": ("IA3", {"feedforward_modules": ["mlp.fc2"]}),
    "LN-tuning": ("LNTuning", {"target_modules": r"blocks\.\d\.norm\d|norm"}),
    "LoHa": ("LoHa", {"r": 2, "alpha": 3}),
    "LoKr": ("LoKr", {"r": 2, "alpha": 3}),
    "LoKr, both decomposed": ("LoKr", {"r": 1, "alpha": 3, "decompose_both": True, "decompose_factor": 4}),
    "LoKr, blocks whole": ("LoKr", {"r": 50, "alpha": 30}),
    "HRA": ("HRA", {"r": 4}),
    "HRA, Gram-Schmidt": ("HRA", {"r": 4, "apply_GS": True}),
    "MiSS": ("Miss", {"r": 5}),
    "MiSS, bat": ("Miss", {"r": 4, "init_weights": "bat"}),
    "MiSS, mini": ("Miss", {"r": 4, "init_weights": "mini", "mini_r": 8}),
    "DeLoRA": ("Delora", {"r": 3}),
    "GraLoRA": ("Gralora", {"r": 4, "gralora_k": 2, "alpha": 3}),
    "GraLoRA, hybrid": ("Gralora", {"r": 4, "gralora_k": 2, "hybrid_r": 2, "alpha": 3}),
    "VB-LoRA": ("VBLoRA", {"r": 2, "num_vectors": 12, "vector_length": 8}),
    "VB-LoRA, top k saved": (
        "VBLoRA",
        {"r": 2, "num_vectors": 12, "vector_length": 8, "save_only_topk_weights": True},
    ),
    "TinyLoRA": ("TinyLora", {"r": 3, "u": 4}),
    "TinyLoRA, tied": ("TinyLora", {"r": 3, "u": 4, "weight_tying": 0.5, "save_projection": False}),
    "PSOFT": ("Psoft", {"r": 4, "psoft_alpha": 3}),
    "PSOFT, series": (
        "Psoft",
        {"r": 4, "ab_svd_init": "pissa_init", "use_cayley_neumann": True, "cayley_neumann_eps": 0.9},
    ),
    "PSOFT, free": ("Psoft", {"r": 4, "psoft_orth": False, "psoft_svd": "lowrank"}),
    "OFT": ("OFT", {"oft_block_size": 8}),
    "OFT, exact": ("OFT", {"oft_block_size": 4, "use_cayley_neumann": False, "block_share": True}),
    "OFT, constrained": ("OFT", {"oft_block_size": 4, "coft": True, "eps": 0.05}),
    "BOFT": ("BOFT", {"boft_block_size": 4}),
    "BOFT, trained biases": ("BOFT", {"boft_block_size": 4, "bias": "boft_only"}),
    "FourierFT": ("FourierFT", {"n_frequency": 60}),
    "RandLoRA": ("RandLora", {"r": 5, "randlora_alpha": 10}),
    "HiRA": ("Hira", {"r": 3}),
    "C3A": ("C3A", {"block_size": 12}),
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """An adapter that PEFT saved, and what PEFT's model does with it.

    Attributes:
        weights: The model's parameters with the adapter merged into them, in float64.
    """

    folder: Path
    logits: Tensor
    weights: Mapping[str, Tensor]


def small(store: Store) -> Real:
    return Real(store, embed_dim=48, num_heads=3)


def trained(kind: str, model: Any, folder: Path, **settings: Any) -> Any:
    """PEFT's model with a random adapter of a kind, saved to a folder."""
    import peft

    name, own = KINDS[kind]
    torch.manual_seed(len(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's advice
        settings = {"target_modules": ALL, "modules_to_save": ["head"]} | own | settings
        adapted = peft.get_peft_model(model, getattr(peft, f"{name}Config")(**settings)).eval()
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        adapted.save_pretrained(str(folder))
    return adapted


@torch.no_grad()
def imported(kind: str, real: Real, folder: Path) -> tuple[Made, list[str]]:
    """An adapter of a kind on the task's backbone, registered under `name_of`; and the notes."""
    model = trained(kind, real.timm_frozen(), folder)
    logits, whole = model(real.images), copy.deepcopy(model).double().merge_and_unload()
    one = Made(folder=folder, logits=logits, weights=whole.state_dict())
    registered = peft_types.read(folder).register(real.store, real.task, name=name_of(kind), classes=None)
    return one, registered.notes


def name_of(kind: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in kind.lower())


def table() -> None:
    """Print the rows of docs/interchange.md."""
    with tempfile.TemporaryDirectory() as place:
        real = small(Store.open(f"{place}/store"))
        for kind in KINDS:
            one, notes = imported(kind, real, Path(place) / name_of(kind))
            found = real.logits(name_of(kind))
            edits = next((n.partition("change: ")[2] for n in notes if "change: " in n), "lora")
            print(f"| {kind} | {edits} | {relative(found, one.logits):.0e} |")


if __name__ == "__main__":
    table()
