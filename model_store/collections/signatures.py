"""The signatures of adapters: who vouches for which version."""

from contextlib import suppress

from model_store.format import keys
from model_store.format.records import Manifest
from model_store.format.signature import Signature, SigningKey, name_of
from model_store.format.trust import Trusted, TrustedKeys
from model_store.place.objects import Place
from petl_vit.errors import Corrupt, Unsupported

_MANIFEST = "manifest.json"


class Signatures:
    """The signatures in a place.

    Args:
        trusted: Who has to vouch for an adapter; None asks nobody.
    """

    def __init__(self, place: Place, trusted: TrustedKeys | None) -> None:
        self._place, self._trusted = place, trusted

    def check(self, manifest: Manifest) -> None:
        """Raises Untrusted where somebody has to vouch for a version, and nobody does."""
        if self._trusted is not None:
            self.voucher(manifest, self._trusted.now())

    def of(self, manifest: Manifest) -> list[Signature]:
        """The signatures of a version, by whomever; damaged ones count for nothing and are left out."""
        folder = keys.adapter(manifest.task, manifest.name, manifest.version, keys.SIGNATURES)
        found = []
        for key in self._place.keys(folder):
            with suppress(Corrupt, Unsupported):
                if (data := self._place.read(key)) is not None:
                    found.append(Signature.parse(data, key))
        return found

    def add(self, manifest: Manifest, key: SigningKey) -> Signature:
        """Sign a version whose tensors were checked; the same again keeps the signature that is there.

        Raises:
            Corrupt: Its manifest is not what it was when it was read.
        """
        data = self._file(manifest)
        there = next((s for s in self.of(manifest) if s.key == key.public and s.is_of(data)), None)
        if there is not None:
            return there
        made = key.sign(data)
        place = keys.signature(manifest.task, manifest.name, manifest.version, name_of(key.public))
        self._place.swap(place, lambda _: made.encode())
        return made

    def covers(self, signature: Signature, manifest: Manifest) -> bool:
        """Whether a signature is of a version as it is stored."""
        return signature.is_of(self._file(manifest))

    def voucher(self, manifest: Manifest, trusted: Trusted) -> str:
        """Who of those who are trusted vouches for a version.

        Raises:
            Untrusted: Nobody does.
            Corrupt: Its manifest is not what it was when it was read.
        """
        return trusted.voucher(manifest, self._file(manifest), self.of(manifest))

    def _file(self, manifest: Manifest) -> bytes:
        key = keys.adapter(manifest.task, manifest.name, manifest.version, _MANIFEST)
        data = self._place.read(key)
        if data is None or Manifest.parse(data, key) != manifest:
            remedy = "remove this version's folder and publish the adapter again"
            raise Corrupt("the manifest has changed since it was read", field=key, remedy=remedy)
        return data
