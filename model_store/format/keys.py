"""The keys of a store's files, from names that are checked first; and the names in listed keys.

Keys of other forms are ignored: other files may lie beside a store's.
"""

import re
from collections.abc import Iterable

from model_store.names import BASE, DIGEST, NAME, check_digest, check_name, is_name
from model_store.routes.algebra import MAX_VERSION
from petl_vit.errors import InvalidInput

BACKBONES, TASKS, ADAPTERS, ALIASES, ROUTES = "backbones", "tasks", "adapters", "aliases", "routes"
IMAGES = "images"
_VERSION = r"[1-9][0-9]{0,9}"
SIGNATURES = "signatures"
REFERENCES = "references"
HISTORY = "history"
GARBAGE = "garbage"


def backbone(digest: str, file: str) -> str:
    return f"{BACKBONES}/{check_digest(digest, 'backbone')}/{file}"


def task(name: str, digest: str, file: str) -> str:
    return f"{TASKS}/{check_name(name, 'task')}/{check_digest(digest, 'task')}/{file}"


def adapter(task: str, name: str, version: int, file: str) -> str:
    return f"{ADAPTERS}/{check_name(task, 'task')}/{_check_adapter(name)}/{int(version)}/{file}"


def signature(task: str, name: str, version: int, key: str) -> str:
    return adapter(task, name, version, f"{SIGNATURES}/{check_digest(key, 'key')}.json")


def alias(task: str, name: str, alias: str) -> str:
    return f"{ALIASES}/{check_name(task, 'task')}/{_check_adapter(name)}/{check_name(alias, 'alias')}"


def route(task: str, name: str) -> str:
    return f"{ROUTES}/{check_name(task, 'task')}/{check_name(name, 'route')}"


def images(digest: str) -> str:
    return f"{IMAGES}/{check_digest(digest, 'images')}"


def reference(route: str, data: str) -> str:
    return f"{REFERENCES}/{check_digest(route, 'route')}/{check_digest(data, 'data')}.json"


def history(key: str, file: str) -> str:
    """A record of the history of what lies under the key of an alias or a route."""
    return f"{HISTORY}/{key}/{file}"


def garbage(key: str) -> str:
    """The mark of a file that is about to be deleted, by its key."""
    return f"{GARBAGE}/{key.replace('/', '+')}"


def below(kind: str, task: str | None = None, adapter: str | None = None) -> str:
    """The prefix of all keys of a kind, or of those of a task, or of a task's adapter."""
    if task is None:
        return kind
    below_task = f"{kind}/{check_name(task, 'task')}"
    return below_task if adapter is None else f"{below_task}/{check_name(adapter, 'adapter')}"


def references(route: str) -> str:
    """The prefix of the references of a route."""
    return f"{REFERENCES}/{check_digest(route, 'route')}"


def backbones_in(keys: Iterable[str]) -> list[str]:
    """The digests of the backbones whose records are among keys."""
    return [digest for (digest,) in _matches(keys, rf"{BACKBONES}/({DIGEST})/backbone\.json")]


def tasks_in(keys: Iterable[str]) -> list[tuple[str, str]]:
    """The names and digests of the tasks whose records are among keys."""
    pairs = _matches(keys, rf"{TASKS}/([^/]+)/({DIGEST})/task\.json")
    return [(name, digest) for name, digest in pairs if is_name(name)]


def versions_in(keys: Iterable[str], file: str) -> list[tuple[str, str, int]]:
    """The task, name and version of the adapters that have a file (a pattern) among keys."""
    triples = _matches(keys, rf"{ADAPTERS}/({NAME})/({NAME})/({_VERSION})/{file}")
    return [(task, name, int(version)) for task, name, version in triples if int(version) <= MAX_VERSION]


def signatures_in(keys: Iterable[str]) -> list[str]:
    """The keys of the signatures of adapters among keys, sorted."""
    pattern = rf"{ADAPTERS}/{NAME}/{NAME}/{_VERSION}/{SIGNATURES}/{DIGEST}\.json"
    found = (key for key in keys if re.fullmatch(pattern, key))
    return sorted(key for key in found if version_of(key)[2] <= MAX_VERSION)


def version_of(key: str) -> tuple[str, str, int]:
    """The task, name and version that a key of an adapter's file begins with."""
    _, task, name, version, *_ = key.split("/")
    return task, name, int(version)


def aliases_in(keys: Iterable[str]) -> list[str]:
    """The aliases among the keys of one adapter's."""
    return [alias for (alias,) in _matches(keys, rf"{ALIASES}/[^/]+/[^/]+/([^/]+)") if is_name(alias)]


def all_aliases_in(keys: Iterable[str]) -> list[tuple[str, str, str]]:
    """The task, adapter and alias of each alias among keys."""
    triples = _matches(keys, rf"{ALIASES}/([^/]+)/([^/]+)/([^/]+)")
    return [(task, name, alias) for task, name, alias in triples if all(map(is_name, (task, name, alias)))]


def images_in(keys: Iterable[str]) -> list[str]:
    """The digests of the training sets whose lists of images are among keys."""
    return [digest for (digest,) in _matches(keys, rf"{IMAGES}/({DIGEST})")]


def routes_in(keys: Iterable[str]) -> list[tuple[str, str]]:
    """The tasks and names of the named routes among keys."""
    pairs = _matches(keys, rf"{ROUTES}/([^/]+)/([^/]+)")
    return [(task, name) for task, name in pairs if is_name(task) and is_name(name)]


def references_in(keys: Iterable[str]) -> list[tuple[str, str]]:
    """The digests of the routes and the data of the references among keys."""
    return [(route, data) for route, data in _matches(keys, rf"{REFERENCES}/({DIGEST})/({DIGEST})\.json")]


def history_in(keys: Iterable[str]) -> list[str]:
    """The keys of the records of histories, the oldest of each name first."""
    pattern = rf"{HISTORY}/(?:{ALIASES}/[^/]+/[^/]+/[^/]+|{ROUTES}/[^/]+/[^/]+)/[0-9TZ.]+-[0-9a-f]+\.json"
    return sorted(key for key in keys if re.fullmatch(pattern, key))


def _matches(keys: Iterable[str], pattern: str) -> list[tuple[str, ...]]:
    return [match.groups() for key in keys if (match := re.fullmatch(pattern, key))]


def _check_adapter(name: str) -> str:
    if name == BASE:
        raise InvalidInput("`base` is the frozen backbone and has no versions", field="adapter")
    return check_name(name, "adapter")
