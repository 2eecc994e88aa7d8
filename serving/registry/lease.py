"""A lease: the adapters of one request, which stay in memory until it ends."""

from collections.abc import Callable
from concurrent.futures import Future

from model_store.resolution.loading import models
from model_store.resolution.versions import ResolvedRoute
from petl_vit.adapter import Adapter
from petl_vit.batch import Model
from petl_vit.errors import Overloaded


class NoRoom(Overloaded):
    """Memory has no room for an adapter now.

    Attributes:
        nbytes: What the adapter takes.
    """

    def __init__(self, problem: str, *, field: str, remedy: str, nbytes: int) -> None:
        super().__init__(problem, field=field, remedy=remedy)
        self.nbytes = nbytes


class Lease:
    """The adapters of a route, loaded or loading.

    Args:
        check: Raises InvalidInput where so many bytes can never fit.

    Attributes:
        loading: By digest; not to be cancelled, as other requests may wait for the same.
    """

    def __init__(
        self, resolved: ResolvedRoute, loading: "dict[str, Future[Adapter]]", check: Callable[[int], None]
    ) -> None:
        self._resolved, self.loading, self._check = resolved, loading, check

    def models(self) -> tuple[Model, ...]:
        """The runnable members of the route; waits for what is loading.

        Raises:
            Corrupt: An adapter's files are damaged or foreign; the others are not harmed.
            InvalidInput: The adapters can never fit into memory together, or the terms of a member do not
                fit together.
            NoRoom: All memory is leased by other requests or pinned.
        """
        adapters, refusals = dict[str, Adapter](), list[NoRoom]()
        for digest, future in self.loading.items():
            try:
                adapters[digest] = future.result()
            except NoRoom as error:
                refusals.append(error)
        if refusals:
            self._check(sum(a.nbytes for a in adapters.values()) + sum(error.nbytes for error in refusals))
            raise refusals[0]
        return models(self._resolved.members, adapters)
