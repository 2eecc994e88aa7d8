"""Processes that run a sweep's trials: of this machine, or tasks of a Ray cluster.

Each opens the store, the data and the storage for itself, and takes trials until none waits. They have the
storage in common, so a worker that dies leaves trials that others take up.
"""

import math
import multiprocessing
import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Any

from model_store.place.cache import Cache
from model_store.store import Store
from petl_vit.cpus import usable_cpus
from petl_vit.errors import InvalidInput
from training.study.session import TOGETHER, Session, Sweep, Unseen, session
from training.study.trials import State

_POLL_S = 0.5
_FINISH_S = 60.0
LOCAL = "local"


def run_in_processes(here: Session, url: str | None) -> None:
    """Runs trials in `workers` processes of this machine, each with its share of the CPUs.

    Args:
        url: Of the store.
    """
    count = min(here.sweep.workers, _packs(here))
    threads = max(1, usable_cpus().count // count)
    context = multiprocessing.get_context("spawn")
    work = replace(here.asked, restart=False, workers=1)
    arguments = (url, here.store.place.cache, work, threads)
    processes = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(count)]
    here.board.note(f"{count} workers, {threads} threads each")
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            here.board.show(here.histories())
            time.sleep(_POLL_S)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    for process in processes:
        if process.exitcode:
            here.board.note(f"a worker ended with code {process.exitcode}; its trials wait again")
    here.studies.revive(here.sweep.methods)


def run_on_ray(here: Session, url: str | None) -> None:
    """Runs trials as tasks of a Ray cluster, one pack a task.

    Args:
        url: Of the store, as the cluster's machines reach it.

    Raises:
        InvalidInput: Ray is not installed, does not answer, or its machines share no storage.
    """
    ray, sweep = _ray(here.sweep), here.sweep
    local = sweep.ray == LOCAL
    threads = max(1, usable_cpus().count // sweep.workers)
    try:
        ray.init(
            address=sweep.ray,  # "local" starts one, also where another runs on this machine
            num_cpus=sweep.workers * threads if local else None,
            include_dashboard=False if local else None,
            log_to_driver=False,
            configure_logging=False,
        )
    except Exception as error:  # of Ray's own classes, and of what it starts
        raise InvalidInput(
            f"Ray at {sweep.ray} does not start: {str(error).splitlines()[0]}",
            field="ray",
            remedy="try again when this machine is less busy, or use --workers without --ray"
            if local
            else f"check the address, or use --ray {LOCAL}",
        ) from error
    try:
        task = ray.remote(num_cpus=threads, max_retries=3)(_run_one)
        work = pickle.dumps((here.store.place.cache, replace(here.asked, restart=False, workers=1, ray=None)))
        here.board.note(f"Ray runs trials in tasks of {threads} threads")
        _until_none_waits(here, ray, lambda: task.remote(url, work, threads))
    finally:
        ray.shutdown()


def _until_none_waits(here: Session, ray: Any, submit: Callable[[], Any]) -> None:
    """Submits a task for every pack that waits, and shows how far they are."""
    running: list[Any] = []
    while here.left():
        waiting = _packs(here) - len(running)
        running += [submit() for _ in range(max(0, waiting))]
        done, running = ray.wait(running, timeout=_POLL_S) if running else ([], running)
        for failed in _errors(ray, done):
            here.board.note(f"a task failed: {failed}")
            here.studies.revive(here.sweep.methods)
        here.board.show(here.histories())
        if not running:  # what is left is another machine's, or was a dead one's
            here.studies.revive(here.sweep.methods)
            time.sleep(_POLL_S)
    if running:  # their trials are over, and what their packs saved is noted last
        ray.wait(running, num_returns=len(running), timeout=_FINISH_S)


def _errors(ray: Any, done: Sequence[Any]) -> list[str]:
    errors = []
    for one in done:
        try:
            ray.get(one)
        except ray.exceptions.RayError as error:
            errors.append(str(error).strip().splitlines()[-1])
    return errors


def _ray(sweep: Sweep) -> Any:
    if sweep.ray != LOCAL and sweep.storage is None:
        raise InvalidInput(
            "the machines of a Ray cluster need a storage that they share",
            field="storage",
            remedy="add --storage URL, such as postgresql://host/optuna",
        )
    try:
        import ray
    except ImportError as error:
        raise InvalidInput(
            "Ray is not installed", field="ray", remedy="run pip install 'corolla[ray]'"
        ) from error
    return ray


def _packs(here: Session) -> int:
    """Packs that the waiting trials make, about."""
    waiting = sum(t.state is State.WAITING for trials in here.histories().values() for t in trials)
    return max(1, math.ceil(waiting / (here.sweep.together or TOGETHER))) if waiting else 1


def _work(url: str | None, cache: Cache | None, sweep: Sweep, threads: int) -> None:
    """A process: runs trials until none waits."""
    with session(Store.open(url, cache=cache), sweep, Unseen(), threads) as here:
        while here.run_one():
            pass


def _run_one(url: str | None, work: bytes, threads: int) -> bool:
    """A task of Ray: runs one pack; whether any waited."""
    here, _ = _kept(url, work, threads)
    return here.run_one()


@lru_cache(maxsize=1)
def _kept(url: str | None, work: bytes, threads: int) -> tuple[Session, ExitStack]:
    """A session that stays open for the next tasks of this process, images decoded."""
    stack, (cache, sweep) = ExitStack(), pickle.loads(work)
    return stack.enter_context(session(Store.open(url, cache=cache), sweep, Unseen(), threads)), stack
