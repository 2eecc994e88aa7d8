"""Which jobs can run, and which can share their forwards."""

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from model_store.names import BASE, check_name
from petl_vit import methods
from petl_vit.errors import InvalidInput
from petl_vit.executors.joint import check_joins

if TYPE_CHECKING:
    from training.run.job import Job

_SHARED = ("epochs", "batch_size", "augment", "balance", "precision", "keep")
"""Fields of the recipe that jobs which run together have in common."""


def check_names(job: "Job") -> None:
    """Refuses names that could not be registered, before anything is trained.

    Raises:
        InvalidInput: They could not.
    """
    check_name(job.task, "task")
    if check_name(job.name, "name") == BASE:
        raise InvalidInput("`base` means the frozen backbone", field="name", remedy="choose another name")


def check_together(jobs: "Sequence[Job]") -> None:
    """Refuses jobs that cannot share their forwards.

    Raises:
        InvalidInput: Two have one name, or differ in what they must share; names it.
        Unsupported: A method does not join.
    """
    first, names = jobs[0], [job.name for job in jobs]
    for job in jobs:
        check_joins(methods.get(job.recipe.method))
        if names.count(job.name) > 1:
            raise InvalidInput(
                f"two adapters would be named {job.name!r}",
                field="name",
                remedy="give each a --name of its own, for example "
                f"--method '{job.recipe.method} --seed 1 --name {job.name}-1'",
            )
        pairs = [(f.name, getattr(job, f.name), getattr(first, f.name)) for f in fields(first)]
        pairs = [pair for pair in pairs if pair[0] not in ("name", "recipe", "sweep")]
        pairs += [(name, getattr(job.recipe, name), getattr(first.recipe, name)) for name in _SHARED]
        for name, value, common in pairs:
            if value != common:
                raise InvalidInput(
                    f"{job.name} has {value}, {first.name} has {common}",
                    field=name,
                    remedy="give both the same, or train them one by one",
                )
