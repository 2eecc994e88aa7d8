"""One model by its text, where an ensemble has no place.

An adapter, its WiSE, or a sum in weight space. Imports no torch.
"""

from model_store.resolution import versions
from model_store.resolution.versions import Member
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.errors import InvalidInput, Unsupported


def resolve(store: Store, text: str, task: str, *, extrapolate: bool = False) -> Member:
    """The versions of one model, on the backbone of its first adapter.

    Args:
        text: An adapter, its WiSE, or a sum in weight space.
        extrapolate: Whether alphas may lie outside [0, 1].

    Raises:
        NotFound: An adapter, version or task does not exist.
        InvalidInput: It is not a model, an alpha is outside its range, its terms belong to different tasks
            or to another than `task`, or the task is on several backbones.
        Unsupported: It is an ensemble.
    """
    route = parse_route(text)
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
