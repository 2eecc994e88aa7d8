"""One model by its text, where an ensemble has no place.

An adapter, its WiSE, a sum in weight space, or a named route of these. Imports no torch.
"""

from model_store.format.records import NamedRoute
from model_store.resolution import versions
from model_store.resolution.versions import Member
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.errors import InvalidInput, Unsupported


def resolve(store: Store, text: str, task: str, *, extrapolate: bool = False) -> Member:
    """The versions of one model, on the backbone of its first adapter.

    Args:
        text: An adapter, its WiSE, or a sum in weight space; a single name is a named route's first.
        extrapolate: Whether alphas may lie outside [0, 1].

    Raises:
        NotFound: An adapter, version or task does not exist.
        InvalidInput: It is not a model, an alpha is outside its range, its terms belong to different tasks
            or to another than `task`, or the task is on several backbones.
        Unsupported: It is an ensemble.
    """
    route, named = parse_route(text), named_by(store, text, task)
    if named is not None:
        route, extrapolate = named.parsed(), named.extrapolate
    if len(route.entries) > 1:
        raise Unsupported(
            f"an ensemble is {len(route.entries)} models, and a checkpoint holds one",
            field="route",
            remedy="fold each member by itself, or join them with + into one sum in weight space",
        )
    resolved = versions.resolve(
        route,
        task=task,
        store=store,
        backbone_digest=versions.backbone_of(route, task=task, store=store),
        extrapolate=extrapolate,
    )
    (member,) = resolved.members
    if member.task.digest != resolved.task.digest:
        raise InvalidInput(
            f"{member.text(with_task=True)} answers in the classes of its own task, not in those of {task!r}",
            field="task",
            remedy=f"give {member.task.spec.name}",
        )
    return member


def named_by(store: Store, text: str, task: str) -> NamedRoute | None:
    """The named route that a text means; None where it means no name.

    Raises:
        NotFound: It is a single name, and of neither a route nor an adapter.
    """
    return store.routes.meant_by(task, parse_route(text))
