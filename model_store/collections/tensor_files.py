"""Reading the tensors of a backbone, a task or an adapter: checked by their digest, perhaps from a cache."""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from model_store.format import digest, tensors
from model_store.format.records import Draft, Manifest
from model_store.place.objects import Place
from petl_vit.errors import Corrupt

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)


def read(
    place: Place,
    key: str,
    *,
    identity: str,
    digest_of: "Callable[[Mapping[str, Tensor]], str]",
    remedy: str,
) -> "tuple[bytes, dict[str, Tensor]]":
    """Read tensors, on the CPU. What enters the cache was checked, and is checked again when it leaves.

    Args:
        identity: The digest that they must have.
        digest_of: Computes it.
        remedy: What to do about a damaged file.

    Returns:
        The file, and what it holds.

    Raises:
        Corrupt: The file is missing or damaged, or is not what the digest says.
    """

    def checked(data: bytes | None) -> "tuple[bytes, dict[str, Tensor]]":
        loaded = tensors.decode(data, key=key, remedy=remedy)
        digest.check(digest_of(loaded), identity, key=key, remedy=remedy)
        return data or b"", loaded

    cache = place.cache
    cached = None if cache is None else cache.get(identity)
    if cache is not None and cached is not None:
        try:
            return checked(cached)
        except Corrupt as error:
            _log.warning("the cache held a damaged copy of %s (%s), which is read again", key, error.problem)
            cache.remove(identity)
    data, loaded = checked(place.read(key))
    if cache is not None:
        cache.put(identity, data)
    return data, loaded


def write(place: Place, key: str, data: bytes) -> None:
    """Write tensors that were checked, in the place of others: those are damaged, or half of a file."""
    if not place.create(key, data) and place.read(key) != data:
        place.renew(key, data)


def adapter_digest(adapter: Draft | Manifest, weights: "Mapping[str, Tensor]") -> str:
    """The digest of an adapter with these tensors."""
    return digest.adapter_digest(
        method=adapter.method,
        config=adapter.config,
        backbone=adapter.backbone_digest,
        task=adapter.task_digest,
        tensors=weights,
    )
