"""The adapters of a store: versions that never change, published whole or not at all, and their aliases."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from model_store.collections import missing
from model_store.collections.aliases import Aliases
from model_store.collections.history import History
from model_store.collections.signatures import Signatures
from model_store.collections.tasks import Tasks
from model_store.collections.tensor_files import adapter_digest, read
from model_store.format import keys, tensors
from model_store.format.records import Draft, Manifest, Tombstone
from model_store.format.signature import Signature, SigningKey
from model_store.format.trust import TrustedKeys
from model_store.names import LATEST, AdapterId, check_name
from model_store.place.objects import Place
from model_store.routes.algebra import MAX_VERSION, AdapterRef
from petl_vit.errors import Conflict, Corrupt, InvalidInput, NotFound

if TYPE_CHECKING:
    from torch import Tensor

_MANIFEST, _WEIGHTS, _TOMBSTONE = "manifest.json", "adapter.safetensors", "deleted.json"
_REMEDY = "remove this version's folder and publish the adapter again"


@dataclass(frozen=True, kw_only=True)
class Published:
    """A version of an adapter, and whether it was there before it was published."""

    manifest: Manifest
    known: bool


class Adapters:
    """The adapters in a place, of the tasks in it; moves of aliases are recorded in the history.

    Args:
        trusted: Who has to vouch for an adapter before its tensors are read; None asks nobody.

    Attributes:
        signatures: Of the versions.
    """

    def __init__(
        self, place: Place, tasks: Tasks, history: History, trusted: TrustedKeys | None = None
    ) -> None:
        self._place = place
        self._tasks = tasks
        self._aliases = Aliases(place, history)
        self.signatures = Signatures(place, trusted)

    # Versions

    def publish(self, draft: Draft, weights: "Mapping[str, Tensor]", *, latest: bool = True) -> Manifest:
        """Publish an adapter as the next version of its name and move `latest` to it.

        Whole or not at all: the manifest is written last. Publishing what is already the newest version
        returns that one. Two publishers at once get two versions.

        Args:
            latest: Whether `latest` moves; where there is none yet, it points at this version anyway.

        Raises:
            InvalidInput: Tensors that are not finite.
            NotFound: The task or the backbone is not in the store.
        """
        self._tasks.check(draft)
        data, identity = tensors.encode(weights), adapter_digest(draft, weights)
        manifest = self._newest(draft.task, draft.name)
        if manifest is None or manifest.digest != identity:
            manifest = self._create_version(draft, identity, data)
        if latest or self._aliases.get(draft.task, draft.name, LATEST) is None:
            self.advance_latest(manifest.task, manifest.name, manifest.version)
        return manifest

    def publish_once(self, draft: Draft, weights: "Mapping[str, Tensor]") -> Published:
        """Publish an adapter as `publish` does, unless one of its versions is the same already.

        Raises:
            InvalidInput, NotFound: As `publish` does.
        """
        known = self._with_digest(draft.task, draft.name, adapter_digest(draft, weights))
        if known is not None:
            return Published(manifest=known, known=True)
        return Published(manifest=self.publish(draft, weights), known=False)

    def versions(self, task: str, name: str) -> list[int]:
        """The published versions, ascending; empty for an adapter that does not exist."""
        check_name(name, "adapter")
        return self.published(task, name).get(AdapterId(task, name), [])

    def published(self, task: str | None = None, name: str | None = None) -> dict[AdapterId, list[int]]:
        """The published versions, ascending, of all adapters, of those of a task, or of one."""
        if task is not None:
            check_name(task, "task")
        versions: dict[AdapterId, list[int]] = {}
        for home, adapter, version in sorted(self._versions_with(task, name, r"manifest\.json")):
            versions.setdefault(AdapterId(home, adapter), []).append(version)
        return versions

    def manifest(self, task: str, name: str, version: int) -> Manifest:
        """Read the manifest of one version.

        Raises:
            NotFound: No such adapter or version; names those that exist.
            Corrupt: It does not validate, or lies where it does not belong.
        """
        check_name(task, "task")
        check_name(name, "adapter")
        key = keys.adapter(task, name, version, _MANIFEST)
        data = self._place.read(key)
        if data is None:
            raise missing.version(task, name, version, self._some_versions(task, name))
        manifest = Manifest.parse(data, key)
        if (manifest.task, manifest.name, manifest.version) != (task, name, version):
            raise Corrupt(
                f"the manifest says it is {manifest}",
                field=key,
                remedy="move it back; to rename an adapter, publish it again under the new name",
            )
        return manifest

    def load(self, manifest: Manifest) -> "dict[str, Tensor]":
        """Read an adapter's tensors, on the CPU.

        Raises:
            Corrupt: The file is missing or damaged, or is not what the digest says.
            Untrusted: Somebody has to vouch for it, and nobody does.
        """
        self.signatures.check(manifest)
        return self._read(manifest)[1]

    def file(self, manifest: Manifest) -> bytes:
        """The file of an adapter's tensors, checked by its digest.

        Raises:
            Corrupt: As `load`.
        """
        return self._read(manifest)[0]

    def adopt(self, manifest: Manifest, record: bytes) -> bool:
        """Publish a version whose number is taken by its tensors, which were written before.

        Args:
            record: The manifest's file.

        Returns:
            Whether it is there now; otherwise its number was deleted meanwhile.

        Raises:
            Conflict: There is another manifest.
        """
        version = manifest.task, manifest.name, manifest.version
        key = keys.adapter(*version, _MANIFEST)
        # Another publisher of the same tensors may have claimed the number too, where an answer was lost.
        if not self._place.create(key, record) and self.manifest(*version).digest != manifest.digest:
            raise Conflict("a manifest without tensors stood here", field=key, remedy="remove that folder")
        if self._is_buried(*version):  # a garbage collector took the tensors for those of a dead publisher
            self._place.delete(key)
            return False
        return True

    def _read(self, manifest: Manifest) -> "tuple[bytes, dict[str, Tensor]]":
        key = keys.adapter(manifest.task, manifest.name, manifest.version, _WEIGHTS)
        digest_of = partial(adapter_digest, manifest)
        return read(self._place, key, identity=manifest.digest, digest_of=digest_of, remedy=_REMEDY)

    def sign(self, manifest: Manifest, key: SigningKey) -> Signature:
        """Sign a version; the same again keeps the signature that is there.

        Raises:
            Corrupt: Its manifest or its tensors are not what they were; nothing is signed then.
        """
        self.load(manifest)
        return self.signatures.add(manifest, key)

    def remove(self, task: str, name: str, version: int) -> int | None:
        """Remove a version for good; where `latest` points then. See `model_store.deletion` for who may.

        Its number stays taken. Killed at any point, the version is there or is not; the same call again
        ends what was begun.

        Raises:
            NotFound: No such version, now or before.
        """
        if not self._is_buried(task, name, version):
            digest = self.manifest(task, name, version).digest
            tombstone = Tombstone(digest=digest, deleted_at=datetime.now(UTC))
            self._place.create(keys.adapter(task, name, version, _TOMBSTONE), tombstone.encode())
        # The tombstone is written before the versions are listed: two deletions at once cannot move
        # `latest` to each other's version.
        remaining = [v for v in self.versions(task, name) if not self._is_buried(task, name, v)]
        if remaining:
            successor = self._successor(task, name, remaining)
            self._aliases.retreat_latest(task, name, version, successor)
            self._retreat_further(task, name, successor)
        # The manifest first: without it the version does not exist, whatever else is left of it.
        files = [keys.adapter(task, name, version, file) for file in (_MANIFEST, _WEIGHTS)]
        for key in [*files, *self._place.keys(keys.adapter(task, name, version, keys.SIGNATURES))]:
            self._place.delete(key)
        if not remaining:
            self._drop_latest(task, name, version)
        return self._aliases.get(task, name, LATEST)

    def bury(self, task: str, name: str, version: int) -> bool:
        """Remove the tensors of a version that was never published; whether it still is not.

        Its number stays taken: a publisher that comes back to it finds the tombstone and takes the next.
        """
        tombstone = keys.adapter(task, name, version, _TOMBSTONE)
        data = Tombstone(digest=None, deleted_at=datetime.now(UTC)).encode()
        if not self._place.create(tombstone, data):  # another collector's, who may yet take it back
            return False
        if self._place.exists(keys.adapter(task, name, version, _MANIFEST)):  # published since it was listed
            self._place.delete(tombstone)
            return False
        self._place.delete(keys.adapter(task, name, version, _WEIGHTS))
        return True

    def mend_latest(self, task: str, name: str) -> bool:
        """Point `latest` at a version that there is, or forget it where there is none; whether it changed.

        A publication or a deletion that was cut off may have left it behind.
        """
        now = self._aliases.get(task, name, LATEST)
        remaining = [v for v in self.versions(task, name) if not self._is_buried(task, name, v)]
        if now is None and remaining:
            self._aliases.advance_latest(task, name, self._successor(task, name, remaining))
        elif now is not None and not remaining:
            self._drop_latest(task, name, now)
        elif now is not None:
            self._retreat_further(task, name, now)
        return now != self._aliases.get(task, name, LATEST)

    # Aliases

    def advance_latest(self, task: str, name: str, version: int) -> None:
        """Move `latest` to a version that exists, never backwards; on, where that is deleted meanwhile."""
        self._aliases.advance_latest(task, name, version)
        self._retreat_further(task, name, version)

    def aliases(self, task: str, name: str) -> dict[str, int]:
        """The version that each alias of an adapter stands for."""
        return self._aliases.of(task, name)

    def version_of(self, task: str, name: str, alias: str) -> int | None:
        """The version that an alias stands for, if there is such an alias."""
        return self._aliases.get(task, name, alias)

    def set_alias(
        self,
        task: str,
        name: str,
        alias: str,
        version: int,
        expected: int | None = None,
        by: str | None = None,
    ) -> int | None:
        """Point an alias at a version; with `expected`, only if it points there now.

        Args:
            by: Who moves it, for the history; None is the user of this process.

        Returns:
            The version it pointed at before, if any.

        Raises:
            NotFound: No such version.
            Conflict: The alias does not point at `expected`.
            InvalidInput: A bad name.
        """
        check_name(alias, "alias")
        self.manifest(task, name, version)
        return self._aliases.set(task, name, alias, version, expected, by)

    def drop_aliases(self, task: str, name: str, version: int) -> None:
        """Forget the aliases that stand for a version, but for `latest`, which `remove` moves."""
        for alias, pointed in self.aliases(task, name).items():
            if pointed == version and alias != LATEST:
                self._aliases.drop(task, name, alias, version)

    def resolve(self, ref: AdapterRef, task: str) -> Manifest:
        """Find the version that a reference means; `task` is the one it belongs to unless it says.

        Raises:
            NotFound: No such task, adapter, version or alias; names near matches.
            InvalidInput: `base` is not an adapter.
        """
        if ref.is_base:
            raise InvalidInput("`base` is the frozen backbone and has no manifest", field="adapter")
        home = ref.task or check_name(task, "task")
        if ref.version is not None:
            return self.manifest(home, ref.name, ref.version)
        alias = ref.alias or LATEST
        version = self._aliases.get(home, ref.name, alias)
        if version is None:
            newest = self._some_versions(home, ref.name)[-1]
            raise missing.alias(home, ref.name, alias, self.aliases(home, ref.name), newest)
        return self.manifest(home, ref.name, version)

    def list(self, task: str | None = None) -> list[AdapterId]:
        """The adapters of one task or of all, by task and name."""
        return sorted(self.published(task))

    # The steps

    def _create_version(self, draft: Draft, identity: str, data: bytes) -> Manifest:
        numbers = self._versions_with(draft.task, draft.name, r"(?:adapter\.safetensors|deleted\.json)")
        version = max((number for _, _, number in numbers), default=0) + 1
        while not self._claim(draft, version, data):
            version += 1
        manifest = Manifest.published(draft, version=version, digest=identity, created_at=datetime.now(UTC))
        if not self.adopt(manifest, manifest.encode()):
            return self._create_version(draft, identity, data)
        return manifest

    def _claim(self, draft: Draft, version: int, data: bytes) -> bool:
        """Take a version's number by writing its tensors; whether it was free."""
        if version > MAX_VERSION:
            folder = keys.below(keys.ADAPTERS, draft.task, draft.name)
            problem = f"version {MAX_VERSION} is taken, and no number is left"
            raise Conflict(problem, field=folder, remedy="publish under another name")
        key = keys.adapter(draft.task, draft.name, version, _WEIGHTS)
        if not self._place.create(key, data):
            return False
        if not self._is_buried(draft.task, draft.name, version):
            return True
        self._place.delete(key)  # published and deleted by others since the numbers were listed
        return False

    def _retreat_further(self, task: str, name: str, target: int) -> None:
        """Move `latest` on from a version that has just been its target, as long as that is deleted too.

        Who deletes that version may have looked at `latest` before it was moved there.
        """
        while self._is_buried(task, name, target):
            remaining = [v for v in self.versions(task, name) if not self._is_buried(task, name, v)]
            if not remaining:
                return self._drop_latest(task, name, target)
            successor = self._successor(task, name, remaining)
            self._aliases.retreat_latest(task, name, target, successor)
            target = successor

    def _drop_latest(self, task: str, name: str, version: int) -> None:
        """Forget `latest` of an adapter without versions, unless a publisher has moved it since."""
        self._aliases.drop(task, name, LATEST, version)
        newest = self._newest(task, name)
        if newest is not None:  # published in between, in a place without a lock
            self._aliases.advance_latest(task, name, newest.version)

    def _successor(self, task: str, name: str, remaining: Sequence[int]) -> int:
        """The version that `latest` moves to: the newest that is not far below its base head, if any."""
        good = (v for v in reversed(remaining) if not self._far_below(task, name, v))
        return next(good, remaining[-1])

    def _far_below(self, task: str, name: str, version: int) -> bool:
        with suppress(NotFound):  # deleted by others since the versions were listed
            return bool(self.manifest(task, name, version).training.get("far_below_base"))
        return True

    def _with_digest(self, task: str, name: str, identity: str) -> Manifest | None:
        """The newest version of an adapter that has a digest, if any."""
        return next((one for one in self._newest_first(task, name) if one.digest == identity), None)

    def _newest(self, task: str, name: str) -> Manifest | None:
        return next(self._newest_first(task, name), None)

    def _newest_first(self, task: str, name: str) -> Iterator[Manifest]:
        for version in reversed(self.versions(task, name)):
            with suppress(NotFound):  # deleted by others since the versions were listed
                yield self.manifest(task, name, version)

    def _is_buried(self, task: str, name: str, version: int) -> bool:
        return self._place.read(keys.adapter(task, name, version, _TOMBSTONE)) is not None

    def _some_versions(self, task: str, name: str) -> Sequence[int]:
        """The versions of an adapter that has some.

        Raises:
            NotFound: No such task or adapter.
        """
        versions = self.versions(task, name)
        if not versions:
            raise self._missing(task, name)
        return versions

    def _missing(self, task: str, name: str) -> NotFound:
        here = {adapter.name for adapter in self.list(task)}
        if not here and not self._tasks.list(task):
            return self._tasks.missing(task)
        if self._place.read(keys.route(task, name)) is not None:
            return missing.named_route(task, name)
        return missing.adapter(task, name, here)

    def _versions_with(self, task: str | None, name: str | None, file: str) -> Sequence[tuple[str, str, int]]:
        """The task, name and version of all that have a file."""
        return keys.versions_in(self._place.keys(keys.below(keys.ADAPTERS, task, name)), file)
