"""Trials in other processes: of this machine, and tasks of a real local Ray."""

import json
import os
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from model_store.place.cache import Cache
from model_store.store import Store
from petl_vit.errors import InvalidInput
from tests.training.study.conftest import Shown, with_recipe
from training.study.session import Sweep, Unseen, session
from training.study.sweep import run
from training.study.trials import State, Trial
from training.study.workers import _kept, _run_one, run_on_ray


@pytest.mark.slow
@pytest.mark.parametrize("where", ["processes", "ray"])
def test_trials_in_other_processes_end_as_in_this_one(
    store: Store, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "ray":
        pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    sweep = with_recipe(replace(sweep, together=2), epochs=1)
    here = run(store, replace(sweep, name="here"), Shown())
    elsewhere = replace(sweep, name="elsewhere", workers=2, ray="local" if where == "ray" else None)
    board = Shown()
    swept = run(store, elsewhere, board, url=str(tmp_path / "store"))

    assert not any("ended with" in note or "failed" in note for note in board.notes), board.notes
    for tuned, known in zip(swept.methods, here.methods, strict=True):
        assert [trial.state for trial in tuned.trials] == [State.COMPLETE] * 2
        assert [trial.value for trial in tuned.trials] == [trial.value for trial in known.trials]
    assert swept.saved.packs == 2
    events = [json.loads(line)["event"] for line in swept.log.read_text().splitlines()]
    assert events.count("begun") == 4
    assert "fitting the base head" not in board.stages  # which the process that runs trials does


def test_a_cluster_needs_a_storage_that_its_machines_share(store: Store, sweep: Sweep) -> None:
    with pytest.raises(InvalidInput, match="need a storage that they share"):
        run(store, replace(sweep, ray="ray://host:10001", storage=None), Shown())


@pytest.mark.parametrize(
    ("address", "remedy"), [("local", "use --workers without --ray"), ("ray://host:1", "use --ray local")]
)
def test_a_ray_that_does_not_start_is_told_with_another_way(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, address: str, remedy: str
) -> None:
    def init(**settings: object) -> None:
        raise RuntimeError("The current node timed out during startup.\nand more")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    here: Any = SimpleNamespace(sweep=replace(sweep, ray=address), board=Unseen())
    with pytest.raises(
        InvalidInput, match=r"does not start: The current node timed out during startup\.;"
    ) as caught:
        run_on_ray(here, None)
    assert (caught.value.remedy or "").endswith(remedy)


def test_a_task_of_a_cluster_keeps_what_it_reads_in_the_cache_of_the_sweep(
    store: Store, sweep: Sweep, tmp_path: Path
) -> None:
    sweep = with_recipe(replace(sweep, methods=("bitfit",)), epochs=1)
    work = pickle.dumps((Cache(tmp_path / "cache", 2**30), sweep))
    given = (str(tmp_path / "store"), work, 1)
    try:
        assert _run_one(*given)
    finally:
        _kept(*given)[1].close()
        _kept.cache_clear()
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) > 0


def test_ray_takes_up_the_trials_of_another_machine_that_died(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    ray = SimpleNamespace(
        init=lambda **settings: None,
        shutdown=lambda: None,
        remote=lambda **settings: lambda task: SimpleNamespace(remote=lambda *given: "task"),
        wait=lambda running, **limits: (running, []),
        get=lambda task: calls.append("task"),
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    trial = Trial(method="bitfit", place=0, point={}, state=State.RUNNING)
    here: Any = SimpleNamespace(
        sweep=replace(sweep, ray="local"),
        asked=replace(sweep, ray="local"),
        store=SimpleNamespace(place=SimpleNamespace(cache=None)),
        board=Unseen(),
        left=lambda: calls.count("revived") == 0 and len(calls) < 9,
        histories=lambda: {"bitfit": [trial]},
        studies=SimpleNamespace(revive=lambda methods: calls.append("revived")),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr("training.study.workers.time.sleep", lambda seconds: None)
    run_on_ray(here, None)
    assert calls == ["task", "revived"]


def test_of_two_machines_one_registers_a_winner_and_the_other_waits_for_it(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = with_recipe(replace(sweep, methods=("bitfit",)), epochs=1)
    here = replace(sweep, job=replace(sweep.job, runs=sweep.job.runs / "here"))
    with session(store, sweep, Unseen()) as there:
        there.run()
        claim = there.studies.claim("bitfit")
        assert claim is not None
        waits: list[float] = []

        def meanwhile(seconds: float) -> None:
            waits.append(seconds)
            there.studies.put_back(claim)

        monkeypatch.setattr("training.study.sweep.time.sleep", meanwhile)
        board = Shown()
        swept = run(store, here, board)
        assert len(waits) == 1
        again = run(store, sweep, Shown())
    assert [tuned.outcome and tuned.outcome.reused for tuned in swept.methods] == [False]
    assert [tuned.outcome and tuned.outcome.reused for tuned in again.methods] == [True]
    assert store.adapters.versions("digits", "bitfit") == [1]
