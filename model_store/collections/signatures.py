"""The signatures of adapters: who vouches for which version."""

from contextlib import suppress

from model_store.format import keys
from model_store.format.records import Manifest
from model_store.format.signature import Signature, SigningKey, fingerprint, is_key, name_of
from model_store.format.trust import Trusted, TrustedKeys
from model_store.place.objects import Place
from petl_vit.errors import CorollaError, Corrupt, Unsupported

_MANIFEST, _TOMBSTONE = "manifest.json", "deleted.json"
_REMEDY = "remove it, and sign the version again with `corolla adapters sign`"


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

    def problems(self, manifest: Manifest) -> list[CorollaError]:
        """What is wrong with the signatures of a version; see `check_file`."""
        folder = keys.adapter(manifest.task, manifest.name, manifest.version, keys.SIGNATURES)
        problems: list[CorollaError] = []
        for key in keys.signatures_in(self._place.keys(folder)):
            try:
                self.check_file(key)
            except (Corrupt, Unsupported) as error:
                problems.append(error)
        return problems

    def check_file(self, key: str) -> None:
        """Check that a signature's file, where it is still there, is one, and is of the version beside it.

        Raises:
            Corrupt: It is damaged, named like another key, or of another manifest.
            Unsupported: A newer version of the format.
        """
        data = self._place.read(key)
        if data is None:
            return
        signature = Signature.parse(data, key)
        if not is_key(signature.key) or not key.endswith(f"/{name_of(signature.key)}.json"):
            raise Corrupt("the key in it is not the one that its name says", field=key, remedy=_REMEDY)
        version = keys.version_of(key)
        manifest = self._place.read(keys.adapter(*version, _MANIFEST))
        if manifest is None and self._place.exists(keys.adapter(*version, _TOMBSTONE)):
            return  # a deletion that is under way or was cut off
        if manifest is None:
            raise Corrupt("the version that it is of does not exist", field=key, remedy="remove it")
        if not signature.is_of(manifest):
            problem = f"{fingerprint(signature.key)} has not signed this manifest"
            raise Corrupt(problem, field=key, remedy=_REMEDY)

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
