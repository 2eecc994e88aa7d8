"""A sweep from its grid to the registered winners."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from model_store.store import Store
from petl_vit.errors import InvalidInput
from petl_vit.vit import FrozenViT
from tests.training.run.notes import Notes
from tests.training.study.conftest import RATES, Shown, grid, with_recipe
from training.run import epochs, trainer
from training.run import job as jobs
from training.run.precision import frozen
from training.run.recipe import Recipe
from training.study import pack, studies
from training.study.session import Sweep
from training.study.sweep import Swept, run
from training.study.trials import State


def events(swept: Swept, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in swept.log.read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def values(swept: Swept) -> dict[str, list[float | None]]:
    return {tuned.method: [trial.value for trial in tuned.trials] for tuned in swept.methods}


def test_each_methods_winner_is_what_train_makes_of_its_recipe_and_has_the_history(
    store: Store, sweep: Sweep
) -> None:
    board = Shown()
    sweep = replace(sweep, methods=("bitfit", "ssf", "linear"))
    swept = run(store, sweep, board)

    assert [tuned.method for tuned in swept.methods] == ["bitfit", "ssf", "linear"]
    assert board.stages.count("reading training images") == 3  # the trials, and two runs of winners
    for tuned in swept.methods:
        assert tuned.winner is not None
        assert tuned.outcome is not None
        manifest = tuned.outcome.manifest
        history: Any = manifest.training["sweep"]
        assert [one["state"] for one in history["trials"]] == ["complete", "complete"]
        assert [one["recipe"]["learning_rate"] for one in history["trials"]] == [*RATES]
        assert history["chosen"] == tuned.winner.place
        assert (history["study"], history["grid"]) == ("tiny", "tiny")
        assert (history["train_images"], history["validation_images"]) == (36, 9)
        chosen = history["trials"][history["chosen"]]
        assert chosen["value"] == max(one["value"] for one in history["trials"])
        assert [*chosen["values"]] == ["1", "2", "3"]
        assert manifest.training["images"] == 45
        assert manifest.training["learning_rate"] == chosen["recipe"]["learning_rate"]
        job = replace(sweep.job, name=tuned.method, recipe=Recipe.of(**tuned.winner.recipe))
        assert jobs.run(store, job).reused
    assert swept.saved.packs == 1
    assert swept.saved.trials == 4
    assert swept.saved.rows_alone == 4 * swept.saved.rows
    assert not list((sweep.folder / "states").iterdir())
    assert any(note.startswith("bitfit, ssf: training takes about") for note in board.notes)


def test_the_same_sweep_again_trains_nothing(store: Store, sweep: Sweep) -> None:
    sweep = replace(sweep, methods=("bitfit",))
    first, notes = run(store, sweep, Shown()), Shown()
    again = run(store, sweep, notes)

    assert notes.stages == []
    assert values(again) == values(first)
    assert [tuned.outcome and tuned.outcome.reused for tuned in again.methods] == [True]


def test_trials_of_one_forward_end_as_each_would_alone(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exact(vit: FrozenViT, *given: Any) -> FrozenViT:
        return frozen(vit.to(dtype=torch.float64), *given)

    monkeypatch.setattr("training.study.ground.frozen", exact)
    ends: dict[tuple[str, int], dict[str, torch.Tensor]] = {}

    def remembering(adapters: Any, *given: Any, **named: Any) -> Any:
        results = run_epochs(adapters, *given, **named)
        for adapter, result in zip(adapters, results, strict=True):
            ends[adapter.name, len(adapters)] = result.tensors
        return results

    run_epochs = epochs.run_epochs
    monkeypatch.setattr(pack, "run_epochs", remembering)
    together = run(store, replace(sweep, name="together"), Shown())
    alone = run(store, replace(sweep, name="alone", together=1), Shown())

    assert values(together) == values(alone)
    assert (together.saved.packs, alone.saved.packs) == (1, 0)
    for name in ("bitfit 1", "bitfit 2", "ssf 1", "ssf 2"):
        for key, tensor in ends[name, 4].items():
            torch.testing.assert_close(ends[name, 1][key], tensor, rtol=1e-6, atol=1e-9, msg=f"{name} {key}")


def test_a_killed_sweep_repeats_no_finished_trial_and_no_epoch(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = replace(sweep, together=2)
    whole = run(store, replace(sweep, name="whole"), Shown())
    beats: list[Any] = []
    heartbeat = studies.Studies.heartbeat

    def killed(of: Any, taken: Any, **signs: Any) -> bool:
        ours = heartbeat(of, taken, **signs)
        beats.append(taken)
        if len(beats) == 9:  # of the second pack's second epoch, after the first trial
            raise KeyboardInterrupt
        return ours

    monkeypatch.setattr(studies.Studies, "heartbeat", killed)
    with pytest.raises(KeyboardInterrupt):
        run(store, replace(sweep, job=replace(sweep.job, again=True)), Shown())
    swept = run(store, sweep, board := Shown())

    assert "going on: 2 of 4 trials are done" in board.notes
    assert values(swept) == values(whole)
    assert len(events(swept, "begun")) == 4 + 2
    assert len(beats) == 9 + 4  # after one saved epoch, two more of two trials
    assert [trial.state for tuned in swept.methods for trial in tuned.trials] == [State.COMPLETE] * 4


def test_an_unfinished_sweep_is_not_gone_on_with_as_another_one(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pack.Packer, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            run(store, sweep, Shown())
    other = with_recipe(sweep, epochs=1)
    with pytest.raises(InvalidInput, match=r"unfinished \(bitfit, ssf\).*epochs was 3 and is 1"):
        run(store, other, Shown())
    with pytest.raises(InvalidInput, match=r"data was .*digits.npz, 45 images .* and is .*, 30 images"):
        run(store, replace(sweep, job=replace(sweep.job, limit=30)), Shown())
    with pytest.raises(
        InvalidInput, match=r"lr of bitfit was 0\.0005, 0\.001 and is 0\.\d+, lr of ssf was 0\."
    ):
        run(store, replace(sweep, trials=1), Shown())
    wider = grid(bitfit={"learning_rate": RATES, "weight_decay": (0.0,)}, ssf={"learning_rate": RATES})
    with pytest.raises(
        InvalidInput, match=r"\(bitfit\).*: weight_decay of bitfit was not varied and is 0\.0;"
    ):
        run(store, replace(sweep, grid=wider), Shown())
    swept = run(store, replace(other, restart=True), Shown())
    assert all(tuned.outcome for tuned in swept.methods)
    assert all(tuned.outcome for tuned in run(store, replace(other, trials=1), Shown()).methods)


def test_a_trial_whose_loss_is_not_finite_fails_alone(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss = trainer.Trainer.loss

    def diverging(of: trainer.Trainer, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = loss(of, features, labels)
        return value * float("nan") if of.name == "ssf 2" and of.epoch == 1 else value

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "loss", diverging)
        swept = run(store, sweep, Shown())
    plain = run(store, replace(sweep, name="plain"), Shown())

    failed = swept.methods[1].trials[1]
    assert (failed.state, failed.reason) == (
        State.FAILED,
        "diverged: the loss of ssf 2 became nan in epoch 2",
    )
    assert failed.value is None
    assert [*failed.values] == [1]
    assert values(swept)["bitfit"] == values(plain)["bitfit"]
    assert values(swept)["ssf"] == [values(plain)["ssf"][0], None]
    assert swept.methods[1].outcome is not None
    history: Any = swept.methods[1].outcome.manifest.training["sweep"]
    assert history["trials"][1]["reason"] == failed.reason


@pytest.mark.parametrize("prune", [True, False])
def test_a_hopeless_trial_leaves_its_forward_unless_told_otherwise(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, prune: bool
) -> None:
    report = studies.Studies.report

    def hopeless(of: Any, taken: Any, epoch: int, accuracy: float) -> bool:
        report(of, taken, epoch, accuracy)
        return str(taken) == "ssf 2"

    monkeypatch.setattr(studies.Studies, "report", hopeless)
    swept = run(store, with_recipe(replace(sweep, prune=prune), epochs=2), Shown())
    trials = [trial for tuned in swept.methods for trial in tuned.trials]
    assert [trial.state for trial in trials[:3]] == [State.COMPLETE] * 3
    if prune:
        assert trials[3].state is State.PRUNED
        assert trials[3].reason == "far behind the best of ssf after epoch 1"
        assert [*trials[3].values] == [1]
    else:
        assert trials[3].state is State.COMPLETE


def test_a_method_without_a_complete_trial_has_no_adapter_and_says_why(store: Store, sweep: Sweep) -> None:
    only = grid(selective={"blocks": ("5",)}, bitfit={"learning_rate": (1e-3,)})
    swept = run(store, replace(sweep, grid=only, methods=("selective", "bitfit")), Shown())

    failed, fine = swept.methods
    assert failed.outcome is None
    assert failed.problem == "no trial is complete"
    assert "there is no block 5" in failed.trials[0].reason
    assert fine.outcome is not None


ALLOCATION = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
TOO_LARGE = InvalidInput("out of memory: one image takes 9 GiB", field="batch_size")


@pytest.mark.parametrize(("error", "alone_too"), [(ALLOCATION, True), (TOO_LARGE, False)])
def test_a_pack_that_does_not_fit_into_memory_runs_one_by_one(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, error: Exception, alone_too: bool
) -> None:
    run_epochs = epochs.run_epochs

    def small(adapters: Any, *given: Any, **named: Any) -> Any:
        if len(adapters) > 1 or (alone_too and adapters[0].name == "ssf 1"):
            raise error
        return run_epochs(adapters, *given, **named)

    monkeypatch.setattr(pack, "run_epochs", small)
    swept = run(store, with_recipe(sweep, epochs=1), Shown())

    states = [trial.state for tuned in swept.methods for trial in tuned.trials]
    assert states == [State.COMPLETE] * 2 + [State.FAILED if alone_too else State.COMPLETE, State.COMPLETE]
    assert swept.methods[1].trials[0].reason.startswith("out of memory: " if alone_too else "")


@pytest.mark.parametrize(("share", "packs"), [(0.9, 1), (1.1, 0)])
def test_trials_share_forwards_where_that_is_measured_to_be_faster(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch, share: float, packs: int
) -> None:
    monkeypatch.setattr(pack.Packer, "joint_share", lambda packer, taken: share)
    board = Shown()
    swept = run(store, with_recipe(replace(sweep, together=None), epochs=1), board)
    assert swept.saved.packs == packs
    told = "trials share forwards" if packs else "trials run one by one"
    assert any(note.startswith(f"{told}: a joint step of 4 trials takes {share:.2f}") for note in board.notes)


def test_what_sharing_saved_is_said_by_the_share_that_was_measured_before(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    measure = pack.Packer.joint_share

    def measured(packer: pack.Packer, taken: Any) -> float:
        shares.append(measure(packer, taken))
        return 0.5  # so that they share forwards

    monkeypatch.setattr(pack.Packer, "joint_share", measured)
    saved = run(store, with_recipe(replace(sweep, together=None), epochs=1), Shown()).saved
    assert saved.seconds_alone * shares[0] == pytest.approx(saved.seconds)


def test_a_full_disk_while_winners_are_published_registers_nothing_half(
    store: Store, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = with_recipe(sweep, epochs=1)
    publish, notes = type(store.adapters).publish, Notes()

    def full(adapters: Any, draft: Any, *given: Any, **named: Any) -> Any:
        if draft.name == "ssf":
            raise OSError(28, "No space left on device")
        return publish(adapters, draft, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(type(store.adapters), "publish", full)
        with pytest.raises(OSError, match="No space left"):
            run(store, sweep, Shown())
    assert store.adapters.versions("digits", "ssf") == []
    swept = run(store, sweep, board := Shown())
    assert [tuned.outcome and tuned.outcome.reused for tuned in swept.methods] == [True, False]
    assert "fitting the base head" not in board.stages + notes.stages
    assert len(events(swept, "begun")) == 4
