"""Whether the store is still the one that the server was started over."""

from model_store.store import Store
from petl_vit.errors import NotFound, Unreachable


def check_is_ours(store: Store, backbone_digest: str) -> None:
    """Refuses what took the place of a store, such as the empty folder of a disk that is not mounted.

    Raises:
        Unreachable: It does not have the backbone that is served, or cannot be read.
    """
    try:
        store.backbones.with_digest(backbone_digest)
    except NotFound as error:
        raise Unreachable(
            f"{store} is another store by now: it does not have the backbone that is served",
            field="store",
            remedy="put the store back, or restart the server for the new one",
        ) from error
