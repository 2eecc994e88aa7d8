"""What became of one training job."""

from dataclasses import dataclass

from model_store.format.records import Manifest
from model_store.names import LATEST
from training.run.heldout import below_base


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a job.

    Attributes:
        manifest: The registered adapter.
        reused: Whether it was registered before, so that nothing was trained.
        latest: The version that `latest` points at; None where the adapter has no `latest`.
    """

    manifest: Manifest
    reused: bool
    latest: int | None

    @property
    def warning(self) -> str:
        """That the adapter is far below its base head, or is reused and not `latest`, and how to promote it
        nevertheless; else empty."""
        return below_base(self.manifest, self.latest) or self._left_behind

    @property
    def _left_behind(self) -> str:
        manifest, latest = self.manifest, self.latest
        if not self.reused or latest in (None, manifest.version):
            return ""
        return (
            f"{manifest} is not `{LATEST}`, which is version {latest}; to make it so: "
            f"corolla adapters alias {manifest.task}/{manifest.name} {LATEST} {manifest.version}"
        )
