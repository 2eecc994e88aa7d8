"""The store: backbones, tasks, adapters and named routes at rest. docs/store-format.md is its format.

Immutable things are created if absent, and their JSON is written last: without it they do not exist.
Aliases and routes are the only things that move, by compare-and-swap. Nothing that was read is
returned before it matches its digest. What a method's tensors mean is not known here.
"""

from pathlib import Path

import platformdirs

from model_store.collections.adapters import Adapters
from model_store.collections.backbones import Backbones
from model_store.collections.history import History
from model_store.collections.images import ImageLists
from model_store.collections.references import References
from model_store.collections.routes import Routes
from model_store.collections.tasks import Tasks
from model_store.format.trust import TrustedKeys
from model_store.place.cache import Cache
from model_store.place.objects import Objects, Place
from model_store.place.snapshot import Snapshot
from petl_vit.errors import InvalidInput


def default_url() -> str:
    """The user's own store, used when no other is named.

    Raises:
        InvalidInput: The user has no home, as in some containers.
    """
    try:
        return str(Path(platformdirs.user_data_dir("corolla", appauthor=False)) / "store")
    except RuntimeError as error:
        remedy = "name a store with --store or COROLLA_STORE"
        raise InvalidInput("this user has no home folder", field="store", remedy=remedy) from error


class Store:
    """A model store. Holds no state but the place, so any number may be open on it at once.

    Attributes:
        backbones, tasks, adapters, routes, images, references: What is in it, and what can be done with that.
        history: Who has changed what aliases and routes mean, and when.
    """

    def __init__(self, place: Place, trusted: TrustedKeys | None = None) -> None:
        self.place = place
        self.backbones = Backbones(place)
        self.tasks = Tasks(place, self.backbones)
        self.history = History(place)
        self.adapters = Adapters(place, self.tasks, self.history, trusted)
        self.routes = Routes(place, self.adapters, self.history)
        self.images = ImageLists(place)
        self.references = References(place)

    @classmethod
    def open(
        cls,
        url: str | None = None,
        *,
        trusted: TrustedKeys | None = None,
        cache: Cache | None = None,
        create: bool = True,
    ) -> "Store":
        """Open a folder (created when missing) or any obstore URL; None is the user's data folder.

        Args:
            create: Whether a folder that is missing is created, or refused.
            trusted: Who has to vouch for an adapter before its tensors are read; None asks nobody.
            cache: Where tensor files are kept on this machine, once they were read and checked.

        Raises:
            InvalidInput: It is neither a folder nor a URL that obstore knows.
            NotFound: The folder is missing, and is not to be created.
        """
        return cls(Objects.open(url or default_url(), cache, create=create), trusted)

    def __str__(self) -> str:
        return str(self.place)

    def snapshot(self) -> Snapshot:
        """The names as they are now; `Store(snapshot)` resolves by them and asks for nothing twice."""
        return Snapshot.take(self.place)
