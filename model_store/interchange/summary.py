"""What an adapter adds to the frozen forward, counted: the edits of each kind, and where they are."""

import re
from collections import Counter
from dataclasses import dataclass

import torch

from model_store.format.records import Manifest
from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedTerm
from model_store.store import Store
from petl_vit.edits import Dense

_BLOCK = re.compile(r"blocks\.\d+\.?")


@dataclass(frozen=True, kw_only=True)
class EditCount:
    """Edits of one kind at one place of the blocks.

    Attributes:
        edit: The class, such as "LowRank".
        site: Such as `attn.qkv`, without the block's number.
    """

    edit: str
    site: str
    count: int

    def __str__(self) -> str:
        return f"{self.count} {self.edit} at {self.site}"


def edits_of(store: Store, manifest: Manifest) -> tuple[EditCount, ...]:
    """The edits of a registered version.

    Raises:
        Corrupt: It cannot be loaded.
    """
    loader = Loader(store, store.backbones.get(manifest.backbone_digest))
    term = ResolvedTerm(alpha=1.0, manifest=manifest, task=store.tasks.of(manifest))
    counts: Counter[tuple[str, str]] = Counter()
    with torch.inference_mode():
        for edit in loader.adapter(term).edits.edits:
            counts[type(edit).__name__, _site(edit)] += 1
    return tuple(EditCount(edit=edit, site=site, count=n) for (edit, site), n in counts.items())


def _site(edit: object) -> str:
    if isinstance(edit, Dense):
        return "parameters"
    where = getattr(edit, "site", None) or getattr(edit, "sublayer", None) or "tokens"
    return _BLOCK.sub("", str(where)) or "blocks"
