"""What is shown of references beside the routes and adapters that they are of."""

from collections.abc import Callable

from pydantic import JsonValue

from model_store.format.records import Manifest, NamedRoute
from model_store.resolution.reference import Referenced, of_adapter, of_named
from model_store.store import Store
from petl_vit.errors import CorollaError, Corrupt


def route_reference(store: Store, named: NamedRoute) -> dict[str, JsonValue]:
    """The reference of a named route in short; `state` is current, stale, none or damaged."""
    return _shown(lambda: of_named(store, named), _command(named))


def adapter_reference(store: Store, manifest: Manifest) -> dict[str, JsonValue]:
    """As `route_reference`, of an adapter by itself; one that was imported has none until it is measured."""
    name, recorded = f"{manifest.name}-{manifest.version}", "heldout" in manifest.training
    remedy = (
        f"training makes one; to measure this one: corolla routes put {name} {manifest.name}:"
        f"{manifest.version} --task {manifest.task} && corolla routes reference {name} --task {manifest.task}"
    )
    return _shown(lambda: of_adapter(store, manifest), remedy if recorded else f"{remedy} --data IMAGES")


def to_measure(named: NamedRoute, shown: dict[str, JsonValue]) -> str:
    """What to type where a route that was changed has no reference that fits; empty where it has one.

    Args:
        shown: As `route_reference` returns it.
    """
    if shown["state"] == "current":
        return ""
    problem = {"stale": "its reference is stale now", "damaged": "its reference is damaged"}.get(
        str(shown["state"]), "it has no reference"
    )
    return f"{problem}, so monitoring estimates nothing of it; to measure it: {_command(named)}"


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


def _command(named: NamedRoute) -> str:
    return f"corolla routes reference {named.name} --task {named.task}"


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
