"""Families of methods: what a method changes decides its colour and its marker in every figure."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Family:
    """Methods that change the same kind of thing.

    Attributes:
        title: For the legend.
        colour: A name of `theme.COLOURS`.
        marker: Matplotlib's.
        methods: Their names.
    """

    title: str
    colour: str
    marker: str
    methods: tuple[str, ...]


FAMILIES: Final = (
    Family(title="head only", colour="grey", marker="s", methods=("base", "linear")),
    Family(title="whole backbone", colour="red", marker="D", methods=("full", "selective")),
    Family(
        title="biases, norms, scales",
        colour="green",
        marker="^",
        methods=("bitfit", "layernorm", "difffit", "ssf", "ia3"),
    ),
    Family(
        title="low rank",
        colour="blue",
        marker="o",
        methods=("lora", "dora", "vera", "fact_tt", "fact_tk", "repadapter"),
    ),
    Family(
        title="adapters",
        colour="orange",
        marker="v",
        methods=("adaptformer", "houlsby", "pfeiffer", "convpass"),
    ),
    Family(title="prompts", colour="purple", marker="P", methods=("vpt_deep", "vpt_shallow", "vqt")),
)
OTHER: Final = Family(title="other", colour="teal", marker="X", methods=("soup", "merge"))
PETL: Final = frozenset(name for family in FAMILIES[2:] for name in family.methods)
"""Methods that train a small part of the backbone, or something beside it."""


def family(method: str | None) -> Family:
    """The family of a method; `other` for soups, ensembles and methods that are not listed."""
    return next((family for family in FAMILIES if method in family.methods), OTHER)
