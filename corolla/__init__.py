"""The `corolla` command, and what programs import.

    import corolla

    with corolla.Client("localhost:50051") as client:            # a running server; no torch
        answer = client.classify([image], route="lora, ssf", task="digits")

    with corolla.Store(".demo/store") as store:                  # in this process
        store.train("lora", data="digits", task="digits", rank=8, epochs=3)
        for image in store.classify(["a.png", "b.png"], route="lora", task="digits"):
            print(image.label, image.probability)

Importing it imports neither torch nor grpc: each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from corolla.answers import Embedding, Prediction, Score
    from corolla.store import Store
    from petl_vit.errors import (
        Conflict,
        CorollaError,
        Corrupt,
        Draining,
        Expired,
        Forbidden,
        InvalidInput,
        NotFound,
        Overloaded,
        Unauthenticated,
        Unreachable,
        Unsupported,
        Untrusted,
    )
    from serving.client.admin import AdminClient
    from serving.client.asynchronous import AsyncClient
    from serving.client.blocking import Client
    from serving.client.labels import Label
    from serving.client.messages import RequestFailed, embed_request_of, request_of

__all__ = [
    "AdminClient",
    "AsyncClient",
    "Client",
    "Conflict",
    "CorollaError",
    "Corrupt",
    "Draining",
    "Embedding",
    "Expired",
    "Forbidden",
    "InvalidInput",
    "Label",
    "NotFound",
    "Overloaded",
    "Prediction",
    "RequestFailed",
    "Score",
    "Store",
    "Unauthenticated",
    "Unreachable",
    "Unsupported",
    "Untrusted",
    "embed_request_of",
    "request_of",
]

_HOMES = {
    "AdminClient": "serving.client.admin",
    "AsyncClient": "serving.client.asynchronous",
    "Client": "serving.client.blocking",
    "Embedding": "corolla.answers",
    "Label": "serving.client.labels",
    "Prediction": "corolla.answers",
    "RequestFailed": "serving.client.messages",
    "Score": "corolla.answers",
    "Store": "corolla.store",
    "embed_request_of": "serving.client.messages",
    "request_of": "serving.client.messages",
}
"""Where a name comes from; the others are errors."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "petl_vit.errors")
    try:
        value: object = getattr(import_module(home), name)
    except ModuleNotFoundError as error:
        error.add_note(f"corolla.{name} needs: pip install 'corolla[{_extra(home)}]'")
        raise
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _extra(home: str) -> str:
    """The extra that brings what a module imports."""
    return "client" if home.startswith("serving.client.") else "serve,train"
