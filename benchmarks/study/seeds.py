"""Adapters that differ from a sweep's winner in the seed, or in where the head starts."""

import os
from pathlib import Path

from benchmarks.study.plan import Plan, name_of
from model_store.names import LATEST
from model_store.store import Store
from petl_vit import methods
from petl_vit.errors import Unsupported
from petl_vit.executors.joint import check_joins
from training.progress import Bars
from training.run import job as jobs
from training.run.job import Job
from training.run.recipe import Recipe

_TOGETHER = 4


def train_seeds(store: Store, plan: Plan, *, task: str, data: str, holdout: float) -> None:
    """Trains and registers what the plan says, several in one forward; what is registered is not repeated."""
    todo = []
    for method, seed, head in plan.adapters():
        name = name_of(method, seed, head)
        if not store.adapters.versions(task, name):
            recipe = _winner(store, task, method).model_copy(update={"seed": seed, "head_init": head})
            todo.append(
                Job(
                    backbone=store.backbones.get(None).digest,
                    task=task,
                    name=name,
                    data=data,
                    recipe=_head_at_rate(recipe) if head == "random" else recipe,
                    runs=Path(os.environ["COROLLA_RUNS"]),
                    holdout=holdout,
                    promote=True,
                )
            )
    alone = [job for job in todo if not _joins(job.recipe.method)]
    joint = [job for job in todo if job not in alone]
    for start in range(0, len(joint), _TOGETHER):
        jobs.run_together(store, joint[start : start + _TOGETHER], Bars())
    for job in alone:
        jobs.run(store, job, Bars())


def _winner(store: Store, task: str, method: str) -> Recipe:
    """The recipe of the adapter that the sweep registered."""
    name = name_of(method, 0)
    version = store.adapters.version_of(task, name, LATEST) or store.adapters.versions(task, name)[-1]
    manifest = store.adapters.manifest(task, name, version)
    values = {field: manifest.training[field] for field in Recipe.model_fields if field in manifest.training}
    return Recipe.of(method=manifest.method, config=manifest.config, **values)


def _head_at_rate(recipe: Recipe) -> Recipe:
    """A random head has far to go, so it learns at the adapter's rate (training/run/rates.py)."""
    return recipe.model_copy(update={"head_rate": recipe.learning_rate})


def _joins(method: str) -> bool:
    """Whether it shares forwards with others; what has no edits computes its features once instead."""
    if method == "linear":
        return False
    try:
        check_joins(methods.get(method))
    except Unsupported:
        return False
    return True
