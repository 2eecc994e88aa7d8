"""Adapters of the method lora as folders that Hugging Face PEFT loads over timm's model.

Ours are A [in, r] and B [r, out] with y += x A B; PEFT's are lora_A [r, in] and lora_B [out, r] with
y += (lora_alpha / r) lora_B(lora_A(x)). Exported folders have lora_alpha = r, so that the factor is 1.
"""

import json
from typing import Any

from model_store.format import tensors
from model_store.format.records import Manifest
from model_store.interchange.peft_names import CONFIG, HEAD, PREFIX, SITES, WEIGHTS
from model_store.store import Store
from petl_vit import methods
from petl_vit.errors import Unsupported
from petl_vit.methods.lora import LoRA


def write(store: Store, manifest: Manifest) -> dict[str, bytes]:
    """The files of a PEFT folder for one version, by name.

    Raises:
        Unsupported: The method is not lora, or the head is not linear.
        Corrupt: A stored file is not what its digest says.
    """
    method = methods.get(manifest.method).configure(manifest.config)
    if not isinstance(method, LoRA):
        raise Unsupported(
            f"{manifest} is of the method {manifest.method}, and PEFT's format here is that of lora",
            field="format",
            remedy="use --format archive, or --format timm where the method folds",
        )
    loaded = store.adapters.load(manifest)
    head = {name: t for name, t in loaded.items() if name.startswith("head.")}
    if sorted(head) != sorted(HEAD):
        raise Unsupported(
            f"{manifest} has no linear head, and a timm model in PEFT has one",
            field="format",
            remedy="use --format archive",
        )
    found = {f"{PREFIX}{name}": tensor for name, tensor in head.items()}
    for name in loaded.keys() - head.keys():
        site, _, kind = name.rpartition(".")
        found[f"{PREFIX}{site}.lora_{kind[-1].upper()}.weight"] = loaded[name].T.contiguous()
    config = _config_of(method)
    return {
        CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        WEIGHTS: tensors.encode(found),
    }


def _config_of(method: LoRA) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "r": method.rank,
        "lora_alpha": method.rank,
        "lora_dropout": method.dropout,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        # With the parent's name: `proj` alone would also be timm's patch_embed.proj.
        "target_modules": [SITES[target] for target in SITES if target in method.targets],
        "modules_to_save": ["head"],
    }
