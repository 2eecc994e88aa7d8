"""What a store's URL says of where the store is. Imports neither obstore nor torch."""

from urllib.parse import urlsplit


def scheme_of(url: str) -> str:
    """`s3` of `s3://bucket/prefix`; empty for a plain path."""
    return urlsplit(url).scheme if "://" in url else ""


def is_remote(url: str | None) -> bool:
    """Whether reading the store takes a network; None is the user's own folder."""
    return scheme_of(url or "") not in ("", "file", "memory")
