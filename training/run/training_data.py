"""The training images of a run: what is recorded of them, and which held-out images are among them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from model_store.resolution.versions import ResolvedTerm
from model_store.store import Store
from petl_vit.errors import InvalidInput
from training.data.dataset import without
from training.data.learnt import Learnt, Overlap, by_adapters
from training.data.records import Dataset


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Images that something is fitted to.

    Attributes:
        limit: How many they were limited to; None for all.
        shots: How many of each class; None for all.
    """

    dataset: Dataset
    limit: int | None
    shots: int | None = None

    def record(self) -> dict[str, JsonValue]:
        """What an adapter or a base head says of them in its `training`."""
        return {
            "data": self.dataset.name,
            "data_digest": self.dataset.digest,
            "images": len(self.dataset),
            "limit": self.limit,
            "shots": self.shots,
            "left_out": dict(self.dataset.left_out),
        }

    def remember(self, store: Store) -> None:
        """Keeps their fingerprints, so that they are recognised where something is measured."""
        store.images.put(self.dataset.digest, self.dataset.fingerprints)

    def learnt(self) -> Learnt:
        return Learnt(name="this run", images=frozenset(self.dataset.fingerprints))


def unlearnt(
    heldout: Dataset,
    learnt: Sequence[Learnt],
    note: Callable[[str], None],
    *,
    field: str,
    remedy: str,
    least: float = 0.0,
) -> Dataset:
    """Held-out images without those that some models were trained on, which a note counts.

    Args:
        field, remedy: For the error.
        least: The share of the images that has to remain, unless just those are what one of the models held
            out when it was trained.

    Raises:
        InvalidInput: None remains, or less than that share; names the models.
    """
    overlap = Overlap(heldout, learnt)
    if not len(overlap):
        return heldout
    counted = f"{len(overlap)} of the {len(heldout)} held-out images are training images of {overlap.names}"
    remaining = without(heldout, overlap.images)
    theirs = remaining.digest in {one.heldout_digest for one in learnt}
    if not len(remaining) or (len(remaining) < least * len(heldout) and not theirs):
        raise InvalidInput(counted, field=field, remedy=remedy)
    note(f"{counted}: they are left out, {len(remaining)} remain")
    return remaining


def unlearnt_by(
    store: Store,
    terms: Iterable[ResolvedTerm],
    heldout: Dataset,
    note: Callable[[str], None],
    *,
    field: str,
    remedy: str,
) -> Dataset:
    """Held-out images that neither adapters nor their base heads were trained on; notes say what is left out.

    Raises:
        InvalidInput: Less than half of the images remain, and not those that one of them held out; names the
            adapters.
    """
    return unlearnt_by_all(by_adapters(store, terms), heldout, note, field=field, remedy=remedy)


def unlearnt_by_all(
    learnt: Sequence[Learnt], heldout: Dataset, note: Callable[[str], None], *, field: str, remedy: str
) -> Dataset:
    """As `unlearnt_by`, of what models are known to have learnt."""
    unknown = Overlap(heldout, learnt).unknown
    if unknown:
        note(f"it is not recorded which images {unknown} learnt, so they may be among these")
    return unlearnt(heldout, learnt, note, field=field, remedy=remedy, least=0.5)
