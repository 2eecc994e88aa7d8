"""What routes did on labelled images, by the digests of the route and of the images.

One reference of each route on each set: measuring again replaces it.
"""

from collections.abc import Sequence

from model_store.collections.condemned import keep
from model_store.format import keys
from model_store.format.reference import Reference
from model_store.place.objects import Place, Stamp
from petl_vit.errors import Corrupt


class References:
    """The references in a place."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def put(self, reference: Reference) -> None:
        """Keep a reference, in the place of an older one of the same route and images.

        Raises:
            Corrupt: Its parts do not agree with each other.
        """
        key = keys.reference(reference.route.digest, reference.data.digest)
        data = reference.encode()
        Reference.parse(data, key)
        self._place.swap(key, lambda _: data)
        keep(self._place, key, data)

    def get(self, route: str, data: str) -> Reference | None:
        """The reference of a route on a set of images, by their digests; None where there is none.

        Raises:
            Corrupt: It is damaged, or lies where it does not belong.
        """
        key = keys.reference(route, data)
        stored = self._place.read(key)
        if stored is None:
            return None
        reference = Reference.parse(stored, key)
        if (reference.route.digest, reference.data.digest) != (route, data):
            raise Corrupt(
                f"the reference says it is of route {reference.route.digest[:12]} on data "
                f"{reference.data.digest[:12]}",
                field=key,
                remedy="remove the file and measure the route again",
            )
        return reference

    def of_route(self, route: str) -> Sequence[Reference]:
        """The references of a route, by its digest; the newest first.

        Raises:
            Corrupt: As `get`.
        """
        return self._read(keys.references(route))

    def list(self) -> Sequence[Reference]:
        """All references, the newest first.

        Raises:
            Corrupt: As `get`.
        """
        return self._read(keys.REFERENCES)

    def stamps(self) -> dict[tuple[str, str], Stamp]:
        """The digests of the routes and the data of all references, and when they were put; reads none."""
        stamps = self._place.stamps(keys.REFERENCES)
        return {digests: stamps[keys.reference(*digests)] for digests in keys.references_in(stamps)}

    def remove(self, *adapters: str) -> int:
        """Remove the references of the routes that adapters are in, by their digests; how many there were.

        One that is damaged stays.
        """
        removed = 0
        for route, data in keys.references_in(self._place.keys(keys.REFERENCES)):
            try:
                reference = self.get(route, data)
            except Corrupt:
                continue
            members = () if reference is None else reference.route.members
            if any(term.digest in adapters for member in members for term in member.terms):
                self._place.delete(keys.reference(route, data))
                removed += 1
        return removed

    def _read(self, prefix: str) -> Sequence[Reference]:
        found = (self.get(*digests) for digests in keys.references_in(self._place.keys(prefix)))
        return sorted((one for one in found if one is not None), key=lambda one: one.made_at, reverse=True)
