"""Trains trials, several in one forward where their methods allow it, and ends those that lead nowhere.

A trial that fails is out of its pack at the end of that epoch; the others go on as they would have.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from model_store.format.canonical import canonical_json
from petl_vit import methods
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.executors.joint import check_joins
from training.run import rates
from training.run.checkpoint import Checkpoint
from training.run.epochs import run_epochs
from training.run.feed import Batch
from training.run.planned import Planned
from training.run.recipe import Recipe
from training.run.trainer import Trained, Trainer, losses_of
from training.study.grids import FACTOR, RECIPE, Value
from training.study.ground import Ground
from training.study.studies import Studies, Taken
from training.study.trials import Saved, State


def planned(method: str, point: Mapping[str, Value], common: Recipe, name: str = "") -> Planned:
    """A trial as training takes it: what its point does not say is as in `common`, or its method's own.

    Raises:
        InvalidInput: A value cannot work; names it.
    """
    kind = methods.get(method)
    settings = {key: value for key, value in point.items() if key not in RECIPE}
    values = common.model_dump() | {key: point[key] for key in RECIPE if key in point and key != FACTOR}
    if "drop_path" not in point and "drop_path" not in common.model_fields_set:
        values["drop_path"] = kind.drop_path
    configured = kind.configure(settings)
    recipe = Recipe.of(**values | {"method": method, "config": configured.model_dump(mode="json")})
    return Planned(name=name or method, recipe=recipe, method=configured)


def with_rates(trial: Planned, point: Mapping[str, Value], images: int) -> Planned:
    """The trial with its learning rates: its point's, or what `corolla train` takes times its factor."""
    settled = rates.settled(trial, images)
    factor = float(point.get(FACTOR, 1.0))
    if factor == 1.0:
        return settled
    scaled = {
        name: min(1.0, float(f"{rate * factor:.2e}"))
        for name, rate in zip(("learning_rate", "head_rate"), settled.recipe.highest_rates, strict=True)
    }
    return replace(settled, recipe=settled.recipe.model_copy(update=scaled))


def joins(method: str) -> bool:
    """Whether trials of a method can share forwards; the head alone is quicker on features computed once."""
    try:
        check_joins(methods.get(method))
    except Unsupported:
        return False
    return method != "linear"


@dataclass(kw_only=True)
class Packer:
    """Runs trials on one ground, and tells their studies what came of them.

    Attributes:
        common: The recipe that all trials have but for their points.
        states: Folder for the states of unfinished trials.
        changed: Called with a trial and what happened to it: begun, epoch, complete, pruned or failed.
        note: Takes what is to be known of the trials of some methods before they begin, such as their memory.
        prune: Whether a trial that is hopeless is pruned.
    """

    ground: Ground
    studies: Studies
    common: Recipe
    states: Path
    prune: bool = True
    changed: Callable[[Taken, str], None] = lambda taken, what: None
    note: Callable[[str], None] = lambda text: None
    _noted: set[tuple[str, ...]] = field(default_factory=set)
    _steps_s: dict[bytes, float] = field(default_factory=dict)

    def run(self, taken: Sequence[Taken]) -> None:
        """Trains trials in one forward; where there is not enough memory, one after the other."""
        several = [pair for one in taken if (pair := self._planned(one))]
        if not several:
            return
        try:
            self._train(several)
        except InvalidInput as error:
            if error.field == "runs":  # the folder of states cannot be written: no trial would end well
                raise
            self._alone_after(error.problem, several)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            self._alone_after(f"out of memory: {str(error).splitlines()[0]}", several)

    def _alone_after(self, reason: str, several: Sequence[tuple[Taken, Planned]]) -> None:
        """Runs one by one the trials that failed together; one that was alone fails."""
        over = self._over(several)
        left = [pair for pair in several if pair[0] not in over]
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        for taken, trial in left:
            if len(several) == 1:
                self.end(taken, State.FAILED, reason=reason)
            else:
                self.run([taken])
            self._checkpoint(trial).remove()

    def _over(self, several: Sequence[tuple[Taken, Planned]]) -> list[Taken]:
        histories = self.studies.history(list({taken.method for taken, _ in several}))
        return [taken for taken, _ in several if histories[taken.method][taken.place].state.over]

    def _planned(self, taken: Taken) -> tuple[Taken, Planned] | None:
        """A trial as it is trained; None where it fails before that, as settings do not fit the backbone."""
        try:
            return taken, self._fitting(taken)
        except InvalidInput as error:
            self.end(taken, State.FAILED, reason=str(error))
            return None

    def _fitting(self, taken: Taken) -> Planned:
        trial = planned(taken.method, taken.point, self.common, str(taken))
        trial.method.shapes(self.ground.vit.arch)
        return with_rates(trial, taken.point, len(self.ground.train))

    def _train(self, several: Sequence[tuple[Taken, Planned]]) -> None:
        ground = self.ground
        several = [pair for pair in several if self._begun(*pair, several)]
        if not several:
            return
        adapters = [trial for _, trial in several]
        watch, steps = _Watch(self, several), _Steps(_clock(ground), self._note_of(several))
        results = run_epochs(
            adapters,
            [self._checkpoint(trial) for trial in adapters],
            vit=ground.vit,
            on=ground.on,
            base_head=ground.base_head,
            images=ground.train,
            heldout=ground.validation,
            reporter=steps,
            watch=watch,
        )
        watch.finish(results)
        for trial in adapters:
            self._checkpoint(trial).remove()
        if len(several) > 1:
            self.studies.save(several[0][0].method, self._saving(watch, steps))

    def _note_of(self, several: Sequence[tuple[Taken, Planned]]) -> Callable[[str], None]:
        """Takes the notes of a pack, the first of its methods."""
        names = tuple(taken.method for taken, _ in several)
        if names in self._noted:
            return lambda text: None
        self._noted.add(names)
        return lambda text: self.note(f"{', '.join(dict.fromkeys(names))}: {text}")

    def _begun(self, taken: Taken, trial: Planned, several: Sequence[tuple[Taken, Planned]]) -> bool:
        """Tells that a trial begins; false where another worker has it by now."""
        begun = self.studies.begin(
            taken,
            recipe=trial.recipe.model_dump(mode="json"),
            parameters=trial.method.parameters(self.ground.vit.arch),
            beside=[other.name for _, other in several if other is not trial],
        )
        if begun:
            self.changed(taken, "begun")
        return begun

    def _checkpoint(self, trial: Planned) -> Checkpoint:
        name = trial.recipe.digest(backbone="", task="", data=self.ground.digest, heldout="")
        return Checkpoint(path=self.states / f"{name}.pt")

    def end(self, taken: Taken, state: State, *, value: float | None = None, reason: str = "") -> None:
        """Ends a trial, and tells of it."""
        self.studies.end(taken, state, value=value, reason=reason)
        self.changed(taken, str(state))

    def _saving(self, watch: "_Watch", steps: "_Steps") -> Saved:
        """What a pack saved; of its time, by the share that a joint step was measured to take."""
        share = self._share([trial for _, trial in watch.several])
        rows = len(self.ground.train) * watch.longest
        return Saved(
            packs=1,
            trials=len(watch.several),
            rows=rows,
            rows_alone=len(self.ground.train) * sum(watch.epochs(taken) for taken, _ in watch.several),
            seconds=steps.seconds,
            seconds_alone=steps.seconds / share,
        )

    def joint_share(self, taken: Sequence[Taken]) -> float:
        """What a step of trials in one forward takes, relative to their steps alone; measured now."""
        trials = []
        for one in taken:
            with suppress(InvalidInput):  # it fails when it runs
                trials.append(self._fitting(one))
        return self._share(trials)

    def _share(self, trials: Sequence[Planned]) -> float:
        alone = sum(self._step_of([trial]) for trial in trials)
        return self._step_of(trials) / alone if alone else 1.0

    def _step_of(self, trials: Sequence[Planned]) -> float:
        """A step of trials in one forward, or of one alone, measured once for trials of the same settings."""
        key = canonical_json(sorted(([t.recipe.method, t.recipe.config] for t in trials), key=canonical_json))
        if key not in self._steps_s:
            self._steps_s[key] = self._step_s(trials)
        return self._steps_s[key]

    def _step_s(self, trials: Sequence[Planned]) -> float:
        """Seconds of a step of trials in one forward, without the optimiser's; the faster of two."""
        ground, clock = self.ground, _clock(self.ground)
        trainers = [
            Trainer(ground.vit, t.method, ground.base_head, t.recipe, on=ground.on, name=t.name)
            for t in trials
        ]
        places = torch.arange(min(self.common.batch_size, len(ground.train)))
        inputs = ground.train.batch(places)
        batch = Batch(inputs=inputs, labels=ground.train.labels[places].to(inputs.device))
        times = []
        for _ in range(2):
            for trainer in trainers:
                trainer.begin_epoch(0, 1)
            started = clock()
            torch.autograd.backward(losses_of(trainers, [batch], [0] * len(trainers)))
            if inputs.is_cuda:
                torch.cuda.synchronize()
            times.append(clock() - started)
            for trainer in trainers:
                trainer.optimizer.zero_grad(set_to_none=True)
        return min(times)


class _Watch:
    """Called after every epoch of a pack: reports accuracies, and ends trials."""

    def __init__(self, packer: Packer, several: Sequence[tuple[Taken, Planned]]) -> None:
        self._packer, self.several = packer, several
        self._by_name = {trial.name: taken for taken, trial in several}
        self._seconds = {taken: taken.before_s for taken, _ in several}
        self._told: dict[Taken, int] = {}
        self._epochs: dict[Taken, int] = {}
        self._ended: dict[Taken, State] = {}
        self._last = time.monotonic()
        self.longest = 0

    def __call__(self, trainers: Sequence[Trainer]) -> None:
        now = time.monotonic()
        took, self._last = now - self._last, now
        self.longest += 1
        for trainer in trainers:
            taken = self._by_name[trainer.name] if trainer.name else self.several[0][0]
            self._epochs[taken] = self._epochs.get(taken, 0) + 1
            self._seconds[taken] += took / len(trainers)
            seconds = self._seconds[taken] - taken.before_s
            if self._packer.studies.heartbeat(taken, seconds=seconds, epoch_s=took):
                self._judge(taken, trainer)
            else:
                trainer.stopped, self._ended[taken] = "another worker has it", State.WAITING

    def epochs(self, taken: Taken) -> int:
        """How many epochs a trial had in this pack."""
        return self._epochs.get(taken, 0)

    def finish(self, results: Sequence[Trained]) -> None:
        """Ends the trials that were trained to their last epoch before they were taken."""
        trained_to_the_end = [
            taken for taken, _ in self.several if self._ended.get(taken) in (None, State.COMPLETE)
        ]
        for taken, trained in zip(trained_to_the_end, results, strict=True):
            if taken not in self._ended:
                self._report(taken, trained.accuracies)
                self._end(taken, State.COMPLETE, value=trained.accuracies[trained.epoch])

    def _judge(self, taken: Taken, trainer: Trainer) -> None:
        yardstick = self._packer.ground.yardstick
        last = trainer.epoch == trainer.recipe.epochs
        if last and not trainer.stopped:
            try:
                trainer.trained()
            except InvalidInput as error:
                trainer.stopped = error.problem
        if trainer.stopped:
            return self._end(taken, State.FAILED, reason=f"diverged: {trainer.stopped}")
        hopeless = self._report(taken, trainer.accuracies)
        accuracy = trainer.accuracies.get(trainer.epoch)
        if accuracy is None:
            return self._packer.changed(taken, "epoch")
        early = trainer.recipe.head_init == "probe" and yardstick.warm(trainer.epoch)
        reason = yardstick.collapsed(accuracy) if last or early else ""
        state = State.FAILED
        if not reason and hopeless and not last and self._packer.prune:
            state, reason = State.PRUNED, f"far behind the best of {taken.method} after epoch {trainer.epoch}"
        if reason:
            trainer.stopped = reason
            return self._end(taken, state, reason=reason)
        if last:
            return self._end(taken, State.COMPLETE, value=accuracy)
        self._packer.changed(taken, "epoch")

    def _report(self, taken: Taken, accuracies: Mapping[int, float]) -> bool:
        """Reports what is new, after a kill that of earlier epochs too; whether the trial is hopeless."""
        hopeless = False
        for epoch, accuracy in accuracies.items():
            if epoch > self._told.get(taken, 0):
                hopeless = self._packer.studies.report(taken, epoch, accuracy)
                self._told[taken] = epoch
        return hopeless

    def _end(self, taken: Taken, state: State, *, value: float | None = None, reason: str = "") -> None:
        self._ended[taken] = state
        self._packer.end(taken, state, value=value, reason=reason)


class _Steps:
    """A reporter that takes the time of steps, and of all that it is told passes on the notes."""

    def __init__(self, clock: Callable[[], float], note: Callable[[str], None]) -> None:
        self._clock, self.note = clock, note
        self._times: list[float] = []

    @property
    def seconds(self) -> float:
        """The median step times their number: between two epochs trials are measured as well."""
        gaps = [later - earlier for earlier, later in itertools.pairwise(self._times)]
        return statistics.median(gaps) * len(self._times) if gaps else 0.0

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[int], None]]:
        steps = name.startswith("training ")
        yield lambda n: self._times.append(self._clock()) if steps else None

    def status(self, text: str) -> None:
        pass


def _clock(ground: Ground) -> Callable[[], float]:
    """What steps are timed by: on a CPU its time in all threads, so that other programs do not count."""
    return time.process_time if ground.on.device.type == "cpu" else time.perf_counter


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error of PyTorch or of Python says that memory is exhausted."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
