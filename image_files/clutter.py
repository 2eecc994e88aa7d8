"""What operating systems, file servers and downloads leave beside images, by name."""

import re

_NAMES = frozenset(
    {
        # Systems and programs.
        "__macosx",
        "__pycache__",
        "desktop.ini",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "icon\r",
        "lost+found",
        "picasa.ini",
        "thumbs.db",
        "$recycle.bin",
        "recycler",
        "system volume information",
        # File servers, which keep thumbnails and deleted files in them.
        "@eadir",
        "@recently-snapshot",
        "@recycle",
        "@synoresource",
        "@tmp",
        "#recycle",
        "#snapshot",
    }
)
_FOUND = re.compile(r"found\.\d{3}")
"""Where Windows puts what it finds of a damaged disk."""
_UNFINISHED = ("~", ".crdownload", ".part", ".partial")


def is_clutter(name: str) -> bool:
    """Whether a file or a folder of that name was put there by no one: hidden, a thumbnail store, a rest."""
    lower = name.lower()
    return (
        lower.startswith(".")
        or lower in _NAMES
        or lower.endswith(_UNFINISHED)
        or _FOUND.fullmatch(lower) is not None
    )
