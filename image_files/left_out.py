"""What is left out of a set of images: how many files for which reason, and some of their names."""

_NAMED = 5

CLUTTER = "clutter"
NOT_AN_IMAGE = "not an image"
LINKED_AGAIN = "linked twice or in a circle"


class LeftOut:
    """Counts by reason."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Counts a file or a folder of that name."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        names = self._names.setdefault(reason, [])
        if name not in names and len(names) <= _NAMED:
            names.append(name)

    @property
    def counts(self) -> dict[str, int]:
        """Files and folders by reason; all that lies in such a folder is counted with it, once."""
        return dict(self._counts)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __str__(self) -> str:
        """For people: `clutter: 2 (@eaDir); not an image: 1 (notes.txt)`."""
        return "; ".join(
            f"{reason}: {count} ({self._named(reason)})" for reason, count in self._counts.items()
        )

    def _named(self, reason: str) -> str:
        names = self._names[reason]
        return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
