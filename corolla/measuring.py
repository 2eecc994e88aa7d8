"""What a program measures with a store that it has opened: routes on labelled images."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corolla.contents import Contents, PathLike
from corolla.evaluation import Measured, Measurement, evaluate, measured
from corolla.names import chosen_task
from model_store.store import Store
from serving.settings import Settings
from training.progress import Bars, Silent

if TYPE_CHECKING:
    from training.measure.document import Evaluation
    from training.progress import Reporter


class Measuring(Contents):
    """A store and the settings of what computes."""

    def __init__(self, store: Store, settings: Settings) -> None:
        super().__init__(store)
        self._settings = settings

    def evaluate(
        self,
        routes: str | Sequence[str],
        *,
        data: PathLike | Sequence[PathLike],
        task: str | None = None,
        shifts: Sequence[str] = (),
        holdout: float | None = None,
        split_seed: int = 0,
        limit: int | None = None,
        skip_bad: bool = False,
        image_column: str = "",
        label_column: str = "",
        extrapolate: bool = False,
        progress: bool = False,
    ) -> list[Measured]:
        """Measures routes on labelled images: accuracy, mean confidence and agreement.

        Args:
            routes: One or several routes, or names of routes.
            data: One or several sets of images, as `train` takes them.
            task: The task; None is the only one.
            shifts: Also under these, as NAME:SEVERITY, e.g. `noise:3`, or as SUITE or SUITE:SEVERITY.
            holdout: Only the images that training with this `holdout` holds out; None is all.
            split_seed: The split seed of that training.
            limit: At most so many images of each set.
            skip_bad: Leave out images that cannot be used, instead of refusing the set.
            image_column, label_column: Of tables and sets of Hugging Face; empty finds them.
            extrapolate: Whether an alpha may be outside [0, 1].
            progress: Show bars on stderr.

        Returns:
            A row for each route, set and shift, in that order; the images as they are come first. A named
            route is called by its name, another one by its text with versions.

        Raises:
            NotFound: A route, the task or the data do not exist.
            InvalidInput: A route, a shift or the data cannot work; names it.
        """
        return measured(
            self.evaluation(
                routes,
                data=data,
                task=task,
                shifts=shifts,
                holdout=holdout,
                split_seed=split_seed,
                limit=limit,
                skip_bad=skip_bad,
                image_column=image_column,
                label_column=label_column,
                extrapolate=extrapolate,
                progress=progress,
            )
        )

    def evaluation(
        self,
        routes: str | Sequence[str] = (),
        *,
        data: PathLike | Sequence[PathLike],
        task: str | None = None,
        members_of: str | Sequence[str] = (),
        alphas: Sequence[float] = (),
        shifts: Sequence[str] = (),
        holdout: float | None = None,
        split_seed: int = 0,
        limit: int | None = None,
        skip_bad: bool = False,
        image_column: str = "",
        label_column: str = "",
        extrapolate: bool = False,
        logits: PathLike | None = None,
        again: bool = False,
        progress: bool = False,
    ) -> "Evaluation":
        """Measures routes and compares them; what it does not say is as in `evaluate`.

        Args:
            routes: None is every adapter of the task, the base, and ensembles of these.
            data: What is chosen is chosen on the first set; further ones are other domains.
            members_of: Also each member of these routes by itself.
            alphas: Every single adapter also at these, from 0 to 1.
            logits: Folder in which logits are kept, so that none is computed twice; None is the user's.
            again: Compute logits that are kept already.

        Returns:
            The document that `corolla evaluate --out` writes: docs/evaluation.md says what is in it.
        """
        what = Measurement(
            routes=_several(routes),
            data=[os.fspath(one) for one in ([data] if isinstance(data, str | os.PathLike) else data)],
            task=chosen_task(self._store, task),
            members_of=_several(members_of),
            alphas=alphas,
            shifts=shifts,
            holdout=holdout,
            split_seed=split_seed,
            limit=limit,
            max_pixels=self._settings.max_pixels,
            skip_bad=skip_bad,
            image_column=image_column,
            label_column=label_column,
            extrapolate=extrapolate,
            backbone=self._settings.backbone,
            device=self._settings.device,
            precision=self._settings.precision,
            logits=None if logits is None else Path(logits),
            again=again,
        )
        return evaluate(self._store, what, reporter_of(progress))


def _several(texts: str | Sequence[str]) -> Sequence[str]:
    return [texts] if isinstance(texts, str) else texts


def reporter_of(progress: bool) -> "Reporter":
    """Bars on stderr, or nothing."""
    return Bars() if progress else Silent()
