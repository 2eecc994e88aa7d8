"""Whether the two files of a PEFT folder agree, and whether it is an adapter of a ViT at all.

PEFT itself leaves out what its config does not name and warns of it at most, so that a folder may mean less
than its tensors say. Such a folder is refused here.
"""

import re
from collections.abc import Iterable

from torch import Tensor

from model_store.interchange import peft_names
from model_store.interchange.peft_folder import PeftFolder
from model_store.interchange.peft_names import CONFIG, HEADS, WEIGHTS, Named
from petl_vit.errors import Corrupt, InvalidInput, Unsupported

_FAMILIES = {
    "lora": ("LORA", "ADALORA"),
    "hada": ("LOHA",),
    "lokr": ("LOKR",),
    "ia3": ("IA3",),
    "oft": ("OFT",),
    "boft": ("BOFT",),
    "hra": ("HRA",),
    "vera": ("VERA",),
    "vblora": ("VBLORA",),
    "randlora": ("RANDLORA",),
    "fourierft": ("FOURIERFT",),
    "c3a": ("C3A",),
    "miss": ("MISS",),
    "bone": ("BONE",),
    "delora": ("DELORA",),
    "gralora": ("GRALORA",),
    "hira": ("HIRA",),
}
"""What the names of a type's tensors begin with, and the types."""
_MODELS = ("ViT", "DeiT", "IJepa", "Dinov2", "DINOv3", "CLIP", "MetaClip", "Siglip", "AutoModel")
"""What the names of the classes of transformers begin with whose image tower a backbone can be."""
_FAMILY = re.compile(r"([a-z0-9]+)_\w+")
_ADVICE = (
    "name modules that the model has: attn.qkv of timm, q_proj and v_proj of transformers 5, query and value "
    "of transformers 4"
)


def check(folder: PeftFolder, named: Named) -> list[str]:
    """What the user should know of a folder whose files agree.

    Raises:
        InvalidInput: It adapts nothing, or the text tower alone.
        Unsupported: It holds adapters of two types, or what is at no linear or norm of a ViT.
        Corrupt: Its config says something else than its tensors.
    """
    _check_tower(folder, named)
    if not named.adapted:
        raise _nothing(folder, named)
    _check_families(folder, named)
    paths = [adapted.path for adapted in named.adapted]
    tuned = [adapted.path for adapted in named.adapted if adapted.tensors.keys() - {"weight", "bias"}]
    _check_targets(folder.config.get("target_modules"), tuned)
    return [*_unmatched(folder.config.get("target_modules"), paths), *_of_other_model(folder)]


def check_head(folder: PeftFolder, named: Named) -> None:
    """Refuses a folder whose config says that a head was saved, and that holds none.

    Raises:
        Corrupt: It is one.
    """
    saved = folder.config.get("modules_to_save")
    lost = [m for m in saved if str(m).rpartition(".")[2] in HEADS] if isinstance(saved, list) else []
    if lost and not named.head:
        raise Corrupt(
            f"its config says that {lost[0]!r} was saved, and no tensor is of it: the folder lost its head, "
            "as PEFT's conversion of PiSSA, OLoRA and CorDA to LoRA loses it",
            field="modules_to_save",
            remedy="add --head FILE with that head, or --head base for the task's base head",
        )


def _check_tower(folder: PeftFolder, named: Named) -> None:
    mapping = folder.config.get("auto_mapping")
    model = str(mapping.get("base_model_class") or "") if isinstance(mapping, dict) else ""
    if (named.text and not named.adapted) or "TextModel" in model:
        of = f"a {model}" if "TextModel" in model else f"a text tower ({named.text[0][:80]})"
        raise InvalidInput(
            f"it is an adapter of {of}, and a backbone is an image tower",
            field=WEIGHTS,
            remedy="what a text tower says of the classes is a head: `corolla tasks import --embeddings`",
        )


def _nothing(folder: PeftFolder, named: Named) -> Exception:
    """The error for a folder without a tensor at any module of a ViT."""
    if named.others:
        of_known = next((n for n in named.others if n.startswith("patch_embed.") or "embeddings." in n), None)
        if of_known is not None:
            return peft_names.foreign(of_known)
        return Unsupported(
            f"it adapts {min(named.others)[:80]}, and no linear or norm of a ViT",
            field=WEIGHTS,
            remedy="adapters of ViT, DINOv2, DINOv3, CLIP and SigLIP are read, by the names of timm and of "
            f"transformers; of the same ViT by other names, {peft_names.MERGE}",
        )
    if not folder.tensors:
        return Corrupt("it holds no tensors", field=WEIGHTS, remedy="save it again with PEFT")
    targets = folder.config.get("target_modules")
    return InvalidInput(
        f"it adapts no module: target_modules {str(targets)[:120]} matched none, and PEFT then trains "
        "nothing and does not say so",
        field="target_modules",
        remedy=f"train it again, and {_ADVICE}",
    )


def _check_families(folder: PeftFolder, named: Named) -> None:
    """Refuses tensors of two types, or of another than the config says."""
    found: dict[str, str] = {}
    for adapted in named.adapted:
        for kind in adapted.tensors:
            _note(found, kind, f"{adapted.path}.{kind}")
    for name in named.others:
        _note(found, name.rpartition(".")[2], name)
    if len(found) > 1:
        (one, first), (two, second) = sorted(found.items())[:2]
        raise Unsupported(
            f"it holds adapters of two types, {_type_of(one)} ({first[:80]}) and {_type_of(two)} "
            f"({second[:80]})",
            field=WEIGHTS,
            remedy="save each in a folder of its own, and import both",
        )
    for family, name in found.items():
        if folder.peft_type not in _FAMILIES[family]:
            raise Corrupt(
                f"peft_type is {folder.peft_type}, and {name[:80]} is of {_type_of(family)}",
                field=CONFIG,
                remedy="put the config and the weights of one adapter together",
            )


def _note(found: dict[str, str], kind: str, name: str) -> None:
    match = _FAMILY.match(kind)
    if match is not None and match[1] in _FAMILIES:
        found.setdefault(match[1], name)


def _type_of(family: str) -> str:
    return _FAMILIES[family][0]


def _check_targets(targets: object, paths: Iterable[str]) -> None:
    """Refuses adapted modules that the config does not name."""
    if isinstance(targets, str):
        wrong = [] if targets == "all-linear" else [p for p in paths if not _fullmatch(targets, p)]
    elif isinstance(targets, list):
        wrong = [p for p in paths if not any(_ends(p, str(target)) for target in targets)]
    else:
        return
    if wrong:
        raise Corrupt(
            f"it holds {wrong[0]}, which its target_modules {str(targets)[:120]} do not name: PEFT would "
            "leave it out",
            field=CONFIG,
            remedy="put the config and the weights of one adapter together",
        )


def _unmatched(targets: object, paths: Iterable[str]) -> list[str]:
    """What the user should know of targets that no tensor is at."""
    known = list(paths)
    names = [str(target) for target in targets] if isinstance(targets, list) else []
    unmatched = [name for name in names if not any(_ends(path, name) for path in known)]
    return [f"target_modules {name!r} matched no module, so PEFT trained nothing there" for name in unmatched]


def _of_other_model(folder: PeftFolder) -> list[str]:
    """What the user should know of an adapter of a model of transformers that no backbone is."""
    mapping = folder.config.get("auto_mapping")
    said = mapping if isinstance(mapping, dict) else {}
    model, library = str(said.get("base_model_class")), str(said.get("parent_library"))
    if not library.startswith("transformers.models.") or model.startswith(_MODELS):
        return []
    return [f"it was made over a {model}, whose forward may be another than the backbone's"]


def _ends(path: str, target: str) -> bool:
    return path == target or path.endswith(f".{target}")


def _fullmatch(pattern: str, path: str) -> bool:
    try:
        return re.fullmatch(pattern, path) is not None
    except re.error as error:
        raise Corrupt(f"target_modules is not a pattern ({error})", field=CONFIG) from error


def untrained(tensors: Iterable[Tensor]) -> bool:
    """Whether all of the tensors that start at zero are still zero."""
    return not any(bool(tensor.any()) for tensor in tensors)
