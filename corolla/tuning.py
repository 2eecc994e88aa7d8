"""What a program tunes with a store that it has opened: methods, by a grid."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from platformdirs import user_cache_dir

from corolla.contents import PathLike
from corolla.measuring import Measuring, reporter_of
from model_store.resolution.promotion import after_registration
from petl_vit.precision import Precision
from training.run.recipe import Recipe
from training.study import grids

if TYPE_CHECKING:
    from training.study.sweep import Swept


class Tuning(Measuring):
    """A store and what is tuned in it."""

    def sweep(
        self,
        methods: str | Sequence[str],
        *,
        data: PathLike,
        task: str,
        grid: str | Mapping[str, Mapping[str, Any]] = "small",
        trials: int | None = None,
        validation: float = 0.2,
        together: int | None = None,
        prune: bool = True,
        name: str | None = None,
        restart: bool = False,
        storage: str | None = None,
        heldout: PathLike | None = None,
        holdout: float = 0.2,
        split_seed: int = 0,
        limit: int | None = None,
        shots: int | None = None,
        skip_bad: bool = False,
        image_size: int | None = None,
        resize: Literal["squash", "crop"] | None = None,
        epochs: int = 30,
        batch_size: int = 64,
        seed: int = 0,
        precision: Literal["fp32", "bf16", "auto"] = "fp32",
        runs: PathLike | None = None,
        promote: bool = False,
        progress: bool = False,
        **recipe: Any,
    ) -> "Swept":
        """Tunes methods by a grid and registers each one's winner; what it does not say is as in `train`.

        Args:
            methods: One or several, or `all`.
            grid: `small`, `paper`, a JSON file, or a grid: `{"lora": {"rank": [4, 8], "lr": [0.001]}}`.
            trials: At most so many of each method; None is the whole grid.
            validation: Share of the training images that trials are measured on.
            together: Most trials of one forward; None chooses.
            prune: End trials that are far behind the best of their method.
            name: Of the sweep, which later calls go on with; None is the task's.
            restart: Forget the trials of an unfinished sweep of this name.
            storage: URL or journal of an Optuna storage that several machines share.
            recipe: What else of a recipe all trials have in common, such as `augment` or `head_init`.

        Returns:
            For each method its trials, the winner and what was registered.

        Raises:
            NotFound: A method, the backbone or the data do not exist.
            InvalidInput: A setting, the grid or the data cannot work, or an unfinished sweep of this name is
                another one.
        """
        several = grids.chosen_methods([methods] if isinstance(methods, str) else methods)
        tried = grids.grid_of(grid)
        common = Recipe.of(
            method=several[0], epochs=epochs, batch_size=batch_size, seed=seed, precision=precision, **recipe
        )

        from training.run.job import Job
        from training.study import sweep as study
        from training.study.board import Board
        from training.study.session import Sweep, Unseen

        job = Job(
            backbone=self._store.backbones.get(self._settings.backbone).digest,
            task=task,
            name=several[0],
            data=os.fspath(data),
            recipe=common,
            runs=Path(runs or Path(user_cache_dir("corolla", appauthor=False), "runs")),
            heldout=None if heldout is None else os.fspath(heldout),
            holdout=holdout,
            split_seed=split_seed,
            limit=limit,
            shots=shots,
            max_pixels=self._settings.max_pixels,
            skip_bad=skip_bad,
            image_size=image_size,
            resize=resize,
            device=self._settings.device,
            promote=promote,
            measure_precision=Precision(self._settings.precision),
        )
        what = Sweep(
            name=name or task,
            grid=tried,
            methods=several,
            job=job,
            trials=trials,
            validation=validation,
            together=together,
            prune=prune,
            storage=storage,
            restart=restart,
        )
        if progress:
            with Board(common.epochs).closing() as board:
                swept = study.run(self._store, what, board)
        else:
            swept = study.run(self._store, what, Unseen())
        registered = [t.outcome.manifest for t in swept.methods if t.outcome and not t.outcome.reused]
        for standing in after_registration(self._store, registered):
            reporter_of(progress).note(standing.line)
        self._changed()
        return swept
