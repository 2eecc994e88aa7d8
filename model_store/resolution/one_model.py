"""One model by its text, where an ensemble has no place.

An adapter, its WiSE, or a sum in weight space. Imports no torch.
"""

from model_store.resolution import versions as resolution
from model_store.resolution.versions import Member
from model_store.routes.algebra import Entry, Model, Route, check_alphas
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit.errors import Unsupported


def read(text: str, *, extrapolate: bool = False) -> Model:
    """Read the text of one model: an adapter, its WiSE, or a sum in weight space.

    Raises:
        InvalidInput: It is not a model, or an alpha is outside [0, 1] without `extrapolate`.
        Unsupported: It is an ensemble.
    """
    route = parse_route(text)
    if len(route.entries) > 1:
        raise Unsupported(
            f"an ensemble is {len(route.entries)} models, and a checkpoint holds one",
            field="route",
            remedy="fold each member by itself, or join them with + into one sum in weight space",
        )
    check_alphas(route, extrapolate)
    return route.entries[0].model


def resolve(store: Store, model: Model, task: str, *, backbone: str | None = None) -> Member:
    """The versions of a model, on the backbone of its first adapter unless one is given by digest.

    Raises:
        NotFound: An adapter, version or task does not exist.
        InvalidInput: Its terms belong to different tasks, or the task is on several backbones.
    """
    refs = [term.adapter for term in model.terms if not term.adapter.is_base]
    if backbone is None and refs:
        backbone = store.adapters.resolve(refs[0], task).backbone_digest
    if backbone is None:
        backbone = store.tasks.get(model.terms[0].adapter.task or task).spec.backbone_digest
    route = Route(entries=(Entry(model=model),))
    return resolution.resolve(route, task=task, store=store, backbone_digest=backbone).members[0]
