"""The aliases of adapters: names for versions, moved by compare and swap."""

from collections.abc import Callable

from model_store.collections.history import History
from model_store.format import keys
from model_store.format.records import Alias
from model_store.names import LATEST
from model_store.place.objects import Place
from petl_vit.errors import Conflict


class Aliases:
    """The aliases in a place. Whether the versions exist is not asked here.

    Args:
        history: Every move is recorded there.
    """

    def __init__(self, place: Place, history: History) -> None:
        self._place, self._history = place, history

    def get(self, task: str, name: str, alias: str) -> int | None:
        """The version that an alias stands for, if there is such an alias."""
        key = keys.alias(task, name, alias)
        data = self._place.read(key)
        return None if data is None else Alias.parse(data, key).version

    def of(self, task: str, name: str) -> dict[str, int]:
        """The version that each alias of an adapter stands for."""
        names = keys.aliases_in(self._place.keys(keys.below(keys.ALIASES, task, name)))
        versions = {alias: self.get(task, name, alias) for alias in names}
        return {alias: version for alias, version in versions.items() if version is not None}

    def set(
        self, task: str, name: str, alias: str, version: int, expected: int | None, by: str | None = None
    ) -> int | None:
        """Point an alias at a version; with `expected`, only if it points there now.

        Args:
            by: Who moves it, for the history; None is the user of this process.

        Returns:
            The version it pointed at before, if any.

        Raises:
            Conflict: The alias does not point at `expected`.
        """

        def change(current: int | None) -> int:
            if expected is not None and current != expected:
                where = "does not exist" if current is None else f"points at version {current}"
                raise Conflict(
                    f"alias {alias!r} {where}, not at {expected}",
                    field="alias",
                    remedy="look again and decide",
                )
            return version

        return self._swap(task, name, alias, change, by)

    def advance_latest(self, task: str, name: str, version: int) -> None:
        """Move `latest` to a version, never backwards: the publisher of a newer one may have been faster."""
        self._swap(task, name, LATEST, lambda current: max(current or 0, version))

    def retreat_latest(self, task: str, name: str, version: int, target: int) -> None:
        """Move `latest` from a version that is about to go."""

        def change(current: int | None) -> int:
            return target if current is None or current == version else current

        self._swap(task, name, LATEST, change)

    def drop(self, task: str, name: str, alias: str, version: int) -> None:
        """Forget an alias where it still stands for a version."""
        key = keys.alias(task, name, alias)
        with self._place.exclusive():
            gone = self.get(task, name, alias) == version
            if gone:
                self._place.delete(key)
        if gone:
            self._history.add_alias(key, version, None)

    def _swap(
        self,
        task: str,
        name: str,
        alias: str,
        change: Callable[[int | None], int],
        by: str | None = None,
    ) -> int | None:
        """Move an alias to what `change` makes of its version, and record it; the version before."""
        key, before, after = keys.alias(task, name, alias), list[int | None](), 0

        def rewritten(data: bytes | None) -> bytes:
            nonlocal after
            before[:] = [None if data is None else Alias.parse(data, key).version]
            after = change(before[0])
            return Alias(version=after).encode()

        self._place.swap(key, rewritten)
        self._history.add_alias(key, before[0], after, by)
        return before[0]
