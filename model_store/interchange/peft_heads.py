"""The pooled feature that a head of transformers takes, which a backbone may pool otherwise.

The heads of ViT and DeiT take the class token after the final norm, those of DINOv2 the mean of the patches
beside it. Those of CLIP and SigLIP take the mean of the patches, before and after the final norm, although
their pooled output is another. A head over another feature gives wrong answers, and no shape tells.
Source: transformers 5, models.*.modeling_*.
"""

from typing import NamedTuple

from model_store.interchange.peft_folder import PeftFolder
from model_store.interchange.peft_names import Named
from petl_vit.architecture import Architecture
from petl_vit.errors import InvalidInput


class _Feature(NamedTuple):
    """What a head takes, as an architecture pools it, and the options of a backbone that does."""

    words: str
    pool: str
    final_norm: str | None
    options: str


_TOKEN = _Feature("the class token after the final norm", "token", "norm", "global_pool=token")
_BESIDE = _Feature(
    "the class token with the mean of the patches behind it", "token+avg", "norm", "global_pool=token+avg"
)
_MEAN = _Feature(
    "the mean of the patches before the final norm",
    "avg",
    None,
    "global_pool=avg --option final_norm=false",
)
_MEAN_OF_NORM = _Feature(
    "the mean of the patches after the final norm", "avg", "norm", "global_pool=avg --option fc_norm=false"
)
_OF_CLASS = {
    "ViTForImageClassification": _TOKEN,
    "DeiTForImageClassification": _TOKEN,
    "Dinov2ForImageClassification": _BESIDE,
    "Dinov2WithRegistersForImageClassification": _BESIDE,
    "CLIPForImageClassification": _MEAN,
    "SiglipForImageClassification": _MEAN_OF_NORM,
}
_OF_PREFIX = {
    "vit": "ViTForImageClassification",
    "deit": "DeiTForImageClassification",
    "dinov2": "Dinov2ForImageClassification",
    "dinov2_with_registers": "Dinov2WithRegistersForImageClassification",
}


def check_feature(folder: PeftFolder, named: Named, arch: Architecture) -> None:
    """Refuses a folder's own head where it takes another feature than the backbone gives.

    Raises:
        InvalidInput: It does; names the options of a backbone that gives it.
    """
    model = _class_of(folder, named, arch)
    feature = _OF_CLASS.get(model)
    if feature is None or (arch.pool, arch.final_norm) == (feature.pool, feature.final_norm):
        return
    raise InvalidInput(
        f"the head of {model} takes {feature.words}, and the backbone pools otherwise",
        field="head",
        remedy=f"import the backbone once more with --option {feature.options}, and give a task on it, "
        "or add --head base",
    )


def _class_of(folder: PeftFolder, named: Named, arch: Architecture) -> str:
    """The model class of transformers that was adapted, as far as the folder tells."""
    mapping = folder.config.get("auto_mapping")
    said = mapping.get("base_model_class") if isinstance(mapping, dict) else None
    if said:
        return str(said)
    last = named.prefix.rpartition(".")[2]
    if last == "vision_model":
        return "CLIPForImageClassification" if arch.class_token else "SiglipForImageClassification"
    return _OF_PREFIX.get(last, "")
