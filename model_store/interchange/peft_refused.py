"""Types of PEFT that are refused, each with the reason: why no edit here is the same change."""

from model_store.interchange.peft_names import CONFIG, MERGE
from petl_vit.errors import Unsupported

_OF_INPUT = "its change of a weight depends on the input"
_OF_TEXT = "it is of language models"
_UNKNOWN = "it is not among the types that are read"
_TEXT = (
    "PROMPT_TUNING MULTITASK_PROMPT_TUNING P_TUNING PREFIX_TUNING ADAPTION_PROMPT CPT CARTRIDGE "
    "TRAINABLE_TOKENS"
)
_WHY = {
    "XLORA": _OF_INPUT,
    "POLY": _OF_INPUT,
    "LILY": _OF_INPUT,
    "PEANUT": "it has an activation between its matrices",
    "PVERA": "it draws its change anew for every input",
    **dict.fromkeys(_TEXT.split(), _OF_TEXT),
}
_REMEDIES = {
    "XLORA": "import the LoRAs that it mixes one by one, and mix them in a route",
    _OF_TEXT: "train VPT instead: `corolla train vpt_deep`",
    _UNKNOWN: MERGE,
}


def refusal(peft_type: str, known: list[str]) -> Unsupported:
    """The error for a type without a reader."""
    why = _WHY.get(peft_type, _UNKNOWN)
    remedy = _REMEDIES.get(peft_type) or _REMEDIES.get(why) or "train it again as a type that is read"
    listed = f" ({', '.join(known)})" if why == _UNKNOWN else ""
    return Unsupported(
        f"peft_type {peft_type!r} cannot be represented exactly: {why}{listed}", field=CONFIG, remedy=remedy
    )
