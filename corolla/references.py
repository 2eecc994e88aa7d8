"""What is shown of references beside the routes and adapters that they are of."""

from collections.abc import Callable

from pydantic import JsonValue

from model_store.format.records import Manifest, NamedRoute
from model_store.resolution.reference import Referenced, of_adapter, of_named
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt


def route_reference(store: Store, named: NamedRoute) -> dict[str, JsonValue]:
    """The reference of a named route in short; `state` is current, stale, none or damaged."""
    remedy = f"corolla routes reference {named.name} --task {named.task}"
    return _shown(lambda: of_named(store, named), remedy)


def adapter_reference(store: Store, manifest: Manifest) -> dict[str, JsonValue]:
    """As `route_reference`, of an adapter by itself."""
    return _shown(lambda: of_adapter(store, manifest), "training, or a named route of it, makes one")


def in_words(shown: dict[str, JsonValue]) -> str:
    """The same as a sentence."""
    state, why = str(shown["state"]), str(shown["why"])
    if "accuracy" not in shown:
        return f"{state}: {why}"
    images = f"{shown['images']} images of {shown['data']}"
    figures = (
        f"accuracy {shown['accuracy']:.3f} at confidence {shown['confidence']:.3f} on {images}, "
        f"in {shown['precision']}, {str(shown['made_at'])[:10]}"
    )
    return f"{state}: {figures}" + (f"; {why}" if why else "")


def _shown(find: Callable[[], Referenced], remedy: str) -> dict[str, JsonValue]:
    try:
        found = find()
    except CorollaError as error:
        return {"state": "damaged" if isinstance(error, Corrupt) else "none", "why": str(error)}
    reference = found.reference
    if reference is None:
        return {"state": "none", "why": remedy}
    return {
        "state": "stale" if found.stale else "current",
        "why": f"{found.stale}; {remedy}" if found.stale else reference.no_estimate,
        "data": reference.data.name,
        "data_digest": reference.data.digest,
        "images": reference.images,
        "accuracy": reference.accuracy,
        "confidence": reference.confidence.mean,
        "temperature": reference.route.temperature,
        "precision": str(reference.precision),
        "made_at": reference.made_at.isoformat(),
    }
