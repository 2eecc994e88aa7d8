"""Rights: which tasks, named routes and adapters a caller may ask for, before they are looked for.

What a caller may not use is refused by its name alone, whether it is there or not; no other error lists it.
"""

from collections.abc import Iterable
from typing import TypeVar

from model_store.routes.algebra import AdapterRef, Route
from petl_vit.errors import CorollaError, Forbidden, InvalidInput, NotFound
from serving.access.principals import Principal
from serving.registry.catalog import Catalog, Plan

E = TypeVar("E", bound=CorollaError)

_ASK = "ask for the right to it, by `corolla tokens create --task` or `--route`"


def plan(
    catalog: Catalog, principal: Principal, task: str, route: Route, *, extrapolate: bool = False
) -> Plan:
    """How a request of a principal is to be answered.

    Raises:
        Forbidden: The principal may not use what the route names.
        NotFound, InvalidInput: As `Catalog.plan`.
    """
    if not principal.limited:
        return catalog.plan(task, route, extrapolate=extrapolate)
    home = checked_home(catalog, principal, task, route.adapters)
    try:
        return catalog.plan(home, route, extrapolate=extrapolate)
    except NotFound as error:
        raise discreet(error) from None


def checked_home(catalog: Catalog, principal: Principal, task: str, refs: Iterable[AdapterRef]) -> str:
    """The task of what a principal names: its only one, where neither the request nor every name has one.

    Raises:
        Forbidden: The principal may not use one of them.
        InvalidInput: No task is named, and it may use none, or several.
    """
    refs = tuple(refs)
    home = task
    if not task and not all(ref.task for ref in refs):
        home = _only_task(catalog, principal)
    if home:
        check_task(principal, home)
    for ref in refs:
        check(principal, ref.task or home, ref.name)
    return home


def check(principal: Principal, task: str, name: str) -> None:
    """Refuses a named route or an adapter that a principal may not use.

    Raises:
        Forbidden: It may not.
    """
    if principal.may_use(task, name):
        return
    check_task(principal, task)
    raise Forbidden(f"{principal.name} may not use {task}/{name}", field="route", remedy=_ASK)


def check_task(principal: Principal, task: str) -> None:
    """Refuses a task that a principal may not use.

    Raises:
        Forbidden: It may not.
    """
    if not principal.may_use_task(task):
        raise Forbidden(f"{principal.name} may not use task {task[:80]!r}", field="task", remedy=_ASK)


def check_unlimited(principal: Principal, what: str) -> None:
    """Refuses a change of what all tasks share to a principal that may not use them all.

    Raises:
        Forbidden: It may use some tasks or routes only.
    """
    if principal.limited:
        raise Forbidden(f"{principal.name} may use some tasks only, and {what} are those of all", remedy=_ASK)


def may_use_name(principal: Principal, full_name: str) -> bool:
    """Whether a principal may use `task/name`, maybe with `:version` or `@alias`, or a task by its name."""
    task, _, rest = full_name.partition("/")
    name = rest.partition(":")[0].partition("@")[0]
    return principal.may_use(task, name) if name else principal.may_use_task(task)


def discreet(error: E) -> E:
    """An error that proposes no names: a limited principal may not use all of them."""
    copy = error.about(error.field)
    copy.remedy = None
    return copy


def _only_task(catalog: Catalog, principal: Principal) -> str:
    tasks = {record.spec.name for record in catalog.store.tasks.list()}
    usable = sorted(task for task in tasks if principal.may_use_task(task))
    if len(usable) == 1:
        return usable[0]
    remedy = f"set it to one of {', '.join(usable)}" if usable else _ASK
    raise InvalidInput("the request names no task", field="task", remedy=remedy)
