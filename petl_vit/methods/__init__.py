"""The PETL methods, one file each; a file in this folder that defines a `Method` registers it.

To add one, see CONTRIBUTING.md. The conformance suite tests every registered method.
"""

import importlib
import pkgutil
from functools import cache

from petl_vit.methods.method import Method
from petl_vit.summaries import unknown


@cache
def _registered() -> dict[str, type[Method]]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    methods = sorted(Method.__subclasses__(), key=lambda method: method.name)
    return {method.name: method for method in methods if method.__module__.startswith(__name__)}


def registered() -> list[type[Method]]:
    """Every method, by name."""
    return list(_registered().values())


def names() -> list[str]:
    """The name of every method that can be trained, sorted."""
    return [name for name, method in _registered().items() if method.trained]


def get(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        NotFound: There is no such method; the remedy names near matches.
    """
    if name not in _registered():
        raise unknown(name, names())
    return _registered()[name]
