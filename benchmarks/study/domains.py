"""The domains of a data set: folders (or folders in a zip) that have the same classes.

photo/dog/1.jpg  sketch/dog/7.png  ...      each domain is a folder of classes
"""

import os
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from petl_vit.errors import InvalidInput, near
from training.data.records import INSIDE


@dataclass(frozen=True, kw_only=True)
class Domains:
    """Where the images of each domain are, as `corolla train --data` takes them.

    Attributes:
        source: The one that is trained on.
        shifted: The others, which are only measured.
    """

    source: str
    shifted: tuple[str, ...]
    places: dict[str, str]


def domains_of(data: str, source: str) -> Domains:
    """Finds the domains of a folder or a zip.

    Raises:
        InvalidInput: There are no domains with the same classes, or none is called `source`.
    """
    classes: dict[PurePosixPath, set[str]] = defaultdict(set)
    for path in _files(data):
        if len(path.parts) >= 3 and not any(part.startswith((".", "__")) for part in path.parts):
            classes[path.parent.parent].add(path.parent.name)
    roots = defaultdict[PurePosixPath, list[PurePosixPath]](list)
    for domain in classes:
        roots[domain.parent].append(domain)
    root = max(roots, key=lambda one: len(roots[one]), default=None)
    found = sorted(roots[root]) if root is not None else []
    if len(found) < 2:
        raise InvalidInput(
            f"{data} has no domains with the same classes",
            field="data",
            remedy="lay it out as DOMAIN/CLASS/IMAGE, with two domains or more",
        )
    names = [domain.name for domain in found]
    if source not in names:
        raise InvalidInput(
            f"{data} has no domain {source!r}", field="source", remedy=near(source, names) or ", ".join(names)
        )
    places = {
        domain.name: f"{data}{INSIDE}{domain}" if os.path.isfile(data) else str(Path(data, domain))
        for domain in found
    }
    return Domains(source=source, shifted=tuple(n for n in names if n != source), places=places)


def _files(data: str) -> list[PurePosixPath]:
    if os.path.isdir(data):
        return [PurePosixPath(path.relative_to(data).as_posix()) for path in Path(data).rglob("*.*")]
    if not zipfile.is_zipfile(data):
        raise InvalidInput(f"{data} is neither a folder nor a zip", field="data", remedy="name one of these")
    with zipfile.ZipFile(data) as archive:
        return [PurePosixPath(name) for name in archive.namelist() if not name.endswith("/")]
