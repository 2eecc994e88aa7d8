"""What a failure of the place itself means to its user, told from what the operating system says."""

import re

from petl_vit.errors import CorollaError, Overloaded, Unreachable

_OS_ERROR = re.compile(r"\(os error (\d+)\)|^\[Errno (\d+)\]")
_FULL = {28: "full", 122: "full for this user", 27: "full for this process"}
_READ_ONLY = {1, 13, 30}
_RETRY_S = 30.0
_PASSWORD = re.compile(r"(?<=://)[^\s\"':]*:[^\s\"'?]*(?=@)")
_QUERY = re.compile(r"(?<=\?)[^\s\"']+")


def problem_of(key: str, error: Exception) -> CorollaError:
    """The error for whoever asked.

    Args:
        key: What was read or written.
        error: Of obstore or the operating system.
    """
    text = first_line(error)
    found = _OS_ERROR.search(text)
    number = int(found[1] or found[2]) if found else None
    if number in _FULL:
        return Overloaded(
            f"the disk of the store is {_FULL[number]}, so nothing was changed",
            field=key,
            remedy="free space there, for example with `corolla store gc`, and try again",
            retry_after_s=_RETRY_S,
        )
    if number in _READ_ONLY:
        return Unreachable(
            f"the store does not allow it ({text})",
            field=key,
            remedy="give this user the right to read and write there; a store that is mounted read-only is "
            "served, and changed from where it can be written",
        )
    return Unreachable(
        f"the store cannot be read or written ({text})",
        field=key,
        remedy="check its URL, your permissions and the network",
    )


def first_line(error: Exception) -> str:
    """What an error says, without the details below, and without what is secret in a URL."""
    return without_secrets((str(error).splitlines() or [type(error).__name__])[0])


def without_secrets(text: str) -> str:
    """Text whose URLs have no password, and nothing after `?`, where signatures stand."""
    return _QUERY.sub("***", _PASSWORD.sub("***", text)) if "://" in text else text
