"""Whose mean and std an imported backbone has: the user's, the folder's, or what timm knows of the weights.

One architecture of timm has weights of several trainings, whose normalisation differs: ViT-B/16 of
ImageNet-21k 0.5, that of MAE and DINO ImageNet's. A tag says which (`vit_base_patch16_224.mae`), and without
one the name of a file may.
"""

import re

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg

from model_store.names import not_found
from model_store.sources.checkpoint import Checkpoint
from model_store.sources.said import Triple
from petl_vit.errors import InvalidInput

Both = tuple[Triple, Triple]


def of(
    architecture: str, *, mean: Triple | None, std: Triple | None, file: Checkpoint | None = None
) -> tuple[Triple, Triple, str]:
    """Mean and std for an architecture of timm, perhaps with a tag, and where they come from.

    Args:
        mean, std: The user's, which come first.
        file: The file of the weights.

    Raises:
        InvalidInput: A mean or std that cannot be of pixels in [0, 1].
        NotFound: timm has no weights of that tag.
    """
    _check(mean, std)
    (known_mean, known_std), whose = _known(architecture, file)
    if mean is not None and std is not None:
        whose = "as given"
    elif mean is not None or std is not None:
        given, other = ("mean", "std") if mean is not None else ("std", "mean")
        whose = f"{given} as given, {other} {whose}"
    return mean or known_mean, std or known_std, whose


def _check(mean: Triple | None, std: Triple | None) -> None:
    if not all(0 <= value <= 1 for value in mean or ()):
        problem = f"a mean of {mean} is not one of pixels in [0, 1]"
        raise InvalidInput(problem, field="mean", remedy="divide one of pixels in [0, 255] by 255")
    if not all(0 < value <= 1 for value in std or ()):
        problem = f"a std of {std} is not one of pixels in [0, 1]"
        raise InvalidInput(problem, field="std", remedy="divide one of pixels in [0, 255] by 255")


def _known(architecture: str, file: Checkpoint | None) -> tuple[Both, str]:
    if file is not None and file.said.mean is not None and file.said.std is not None:
        return (file.said.mean, file.said.std), file.said.whose
    name, _, tag = architecture.partition(".")
    own = _of_timm(architecture)
    if own is None:
        return (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD), "ImageNet's, as timm knows no other"
    if tag or file is None:
        return own, f"timm's for {architecture}"
    others = _of_tags(name)
    guessed = {t: both for t, both in others.items() if t.split("_")[0] in _words(file.name)}
    if guessed and len(set(guessed.values())) == 1:
        tag = min(guessed, key=len)
        return guessed[tag], f"timm's for {name}.{tag}, as the file's name says; else set --mean and --std"
    differ = [t for t, both in others.items() if both != own]
    if not differ:
        return own, f"timm's for {name}"
    tags = ", ".join(f"{name}.{t}" for t in differ[:3])
    have = "has others" if len(differ) == 1 else "have others"
    return own, f"timm's for {name} without a tag; {tags} {have}: name the tag, or set --mean and --std"


def pretrained(name: str) -> PretrainedCfg | None:
    """What timm knows of an architecture's weights; None where it has none.

    Raises:
        NotFound: It has none of that tag; names near ones.
    """
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:
        architecture, _, tag = name.partition(".")
        tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
        raise not_found(
            f"timm has no weights {tag!r} of {architecture}",
            tag,
            tags,
            field="architecture",
            when_empty=f"write {architecture}",
        ) from None


def _of_timm(name: str) -> Both | None:
    config = pretrained(name)
    return None if config is None else (_triple(config.mean), _triple(config.std))


def _of_tags(name: str) -> dict[str, Both]:
    """Mean and std of all weights that timm has for an architecture, by tag."""
    tags = [full.partition(".")[2] for full in timm.list_models(f"{name}.*", pretrained=True)]
    found = {tag: _of_timm(f"{name}.{tag}") for tag in tags if tag}
    return {tag: both for tag, both in found.items() if both is not None}


def _words(file: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", file.lower()))


def _triple(values: tuple[float, ...]) -> Triple:
    red, green, blue = values
    return red, green, blue
