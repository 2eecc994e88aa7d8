"""An adapter in memory, or on its way there."""

from concurrent.futures import Future
from dataclasses import dataclass, field

from model_store.format.records import Manifest
from petl_vit.adapter import Adapter


@dataclass(eq=False, kw_only=True)
class Entry:
    """An adapter in memory.

    Attributes:
        manifests: The versions that were found to be it; none of a task's base.
    """

    adapter: Adapter
    manifests: list[Manifest] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    pinned: bool = False
    last_used_at: float = 0.0

    def is_of(self, manifest: Manifest | None) -> bool:
        """Whether a version was found to be this adapter."""
        if manifest is None or any(manifest is known for known in self.manifests):
            return True
        for at, known in enumerate(self.manifests):
            if manifest == known:  # read again: found quicker next time
                self.manifests[at] = manifest
                return True
        return False


@dataclass(frozen=True, kw_only=True)
class Coming:
    """An adapter that is being loaded, for a version of it."""

    manifest: Manifest | None
    future: "Future[Adapter]"
