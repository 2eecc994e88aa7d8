"""Naming a route: everything that is checked before it is stored under a name."""

from dataclasses import dataclass

from model_store.format.records import NamedRoute
from model_store.names import BASE, LATEST
from model_store.resolution import versions
from model_store.routes.algebra import Route
from model_store.routes.text import explain_route, parse_route
from model_store.store import Store


@dataclass(frozen=True, kw_only=True)
class Naming:
    """A route that may be stored under its name.

    Attributes:
        resolved: The route with the versions that it means now.
        why: Where its temperature comes from.
        shadows: Whether an adapter has the same name; that name alone then means the route.
    """

    route: NamedRoute
    resolved: str
    why: str
    shadows: bool

    def lines(self) -> list[str]:
        """What people should know about it: how it is read, and what it changes."""
        home, name = self.route.task, self.route.name
        lines = [f"route {home}/{name} = {self.route.route}"]
        lines += [f"  {line}" for line in explain_route(self.route.parsed(), home)]
        lines.append(f"temperature {self.route.temperature:g}: {self.why}")
        if self.shadows:
            lines.append(
                f"note: {name} alone now means this route in task {home}; "
                f"the adapter of that name is {name}@{LATEST}"
            )
        return lines


def check(
    store: Store,
    *,
    task: str,
    name: str,
    text: str,
    temperature: float | None = None,
    extrapolate: bool = False,
    backbone_digest: str | None = None,
) -> Naming:
    """The route that a text means under a name, if it can be answered; stores nothing.

    Args:
        temperature: Divides the combined logits; None is the fitted one of a single adapter, else 1.
        backbone_digest: What has to run it; None is the backbone of its first adapter.

    Raises:
        InvalidInput: A bad name, text, alpha or temperature, or members that do not fit together.
        NotFound: An adapter that does not exist.
        Unsupported: An adapter of another backbone.
    """
    route = parse_route(text)
    resolved = versions.resolve(
        route,
        task=task,
        store=store,
        backbone_digest=backbone_digest or versions.backbone_of(route, task=task, store=store),
        extrapolate=extrapolate,
    )
    value, why = (temperature, "as given") if temperature is not None else _default(store, route, task)
    named = NamedRoute.of(task=task, name=name, route=str(route), temperature=value, extrapolate=extrapolate)
    shadows = bool(store.adapters.versions(task, name))
    return Naming(route=named, resolved=str(resolved), why=why, shadows=shadows)


def _default(store: Store, route: Route, task: str) -> tuple[float, str]:
    ref = route.single
    if ref is None or ref.is_base:
        return 1.0, f"the default of a route that is not one adapter{f' but {BASE}' if ref else ''}"
    return store.adapters.resolve(ref, task).temperature, f"fitted for {ref} on held-out data"
