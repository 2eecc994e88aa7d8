"""Which images something was trained on: lists of their fingerprints, by the digest of the training set.

Adapters and base heads name that digest in `training`, so those of one training set share a list.
"""

import re
from collections.abc import Collection, Iterable

from pydantic import JsonValue

from model_store.collections.condemned import keep
from model_store.format import keys
from model_store.names import DIGEST
from model_store.place.objects import Place
from petl_vit.errors import Corrupt

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")


class ImageLists:
    """The lists in a place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lists: dict[str, frozenset[str]] = {}  # which never change

    def put(self, digest: str, fingerprints: Collection[str]) -> None:
        """Keep the fingerprints of a training set's images, before what was trained on them is stored.

        A list that exists is written again, so that it is young, and no garbage collector takes it meanwhile.
        """
        key, data = keys.images(digest), "".join(f"{one}\n" for one in sorted(set(fingerprints))).encode()
        if not self._place.create(key, data):
            self._place.renew(key, data)
        keep(self._place, key, data)

    def of(self, training: dict[str, JsonValue]) -> frozenset[str] | None:
        """The images that something with such a `training` has learnt; None where that is not recorded.

        Raises:
            Corrupt: A list is damaged.
        """
        lists = [self._list(digest) for digest in digests_in(training)]
        if None in lists or not ("data_digest" in training or "data_digests" in training):
            return None
        return frozenset[str]().union(*(one for one in lists if one is not None))

    def _list(self, digest: str) -> frozenset[str] | None:
        if digest in self._lists:
            return self._lists[digest]
        key = keys.images(digest)
        data = self._place.read(key)
        if data is None:
            return None
        lines = data.decode("ascii", "replace").splitlines()
        if not all(map(_FINGERPRINT.fullmatch, lines)):
            raise Corrupt("it is not a list of fingerprints", field=key, remedy="remove the file")
        return self._lists.setdefault(digest, frozenset(lines))


def digests_in(training: dict[str, JsonValue]) -> list[str]:
    """The digests of the training sets: one of an adapter that was trained, several of a soup."""
    named = training.get("data_digests", [training.get("data_digest")])
    digests: Iterable[JsonValue] = named if isinstance(named, list) else []
    return [one for one in digests if isinstance(one, str) and re.fullmatch(DIGEST, one)]
