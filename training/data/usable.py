"""Which images of a set can be used: every file is decoded once, so that all bad ones are known at once."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from image_files.left_out import LeftOut
from model_store.names import printable
from petl_vit.errors import InvalidInput
from petl_vit.preprocess import check
from training.data.reading import Reading

_MAX_WORKERS = 8
_LISTED = 8


def usable(
    paths: Sequence[str],
    read: Callable[[str], bytes],
    *,
    origin: str,
    left_out: LeftOut,
    field: str,
    reading: Reading,
) -> dict[str, str]:
    """The sha256 of each image that can be used, by its path.

    Args:
        read: The bytes of a path; raises InvalidInput.
        left_out: Takes the others.

    Raises:
        InvalidInput: Some cannot be used and are not to be skipped; names them.
    """

    def examined(path: str) -> str | InvalidInput:
        try:
            data = read(path)
            check(data, max_pixels=reading.max_pixels)
        except InvalidInput as error:
            return error
        return hashlib.sha256(data).hexdigest()

    what = "checking held-out images" if field == "heldout" else "checking images"
    digests, bad = dict[str, str](), list[tuple[str, InvalidInput]]()
    with (
        reading.reporter.stage(what, len(paths)) as advance,
        ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool,
    ):
        for path, outcome in zip(paths, pool.map(examined, paths), strict=True):
            advance(1)
            if isinstance(outcome, str):
                digests[path] = outcome
            else:
                bad.append((path, outcome))
    if bad and not reading.skip_bad:
        raise _refusal(origin, bad, len(paths), field)
    for path, error in bad:
        left_out.add(error.problem.partition(" (")[0], printable(path))
    return digests


def _refusal(origin: str, bad: Sequence[tuple[str, InvalidInput]], total: int, field: str) -> InvalidInput:
    """The error that names images that cannot be used, and what to do about them."""
    shown = [f"{printable(path)}: {error.problem}" for path, error in bad[:_LISTED]]
    if len(bad) > _LISTED:
        shown.append(f"and {len(bad) - _LISTED} more")
    remedies = dict.fromkeys(error.remedy for _, error in bad if error.remedy)
    return InvalidInput(
        f"{len(bad)} of {total} images in {origin} cannot be used: {'; '.join(shown)}",
        field=field,
        remedy="; ".join([*list(remedies)[:3], "or go on without them by --skip-bad"]),
    )
