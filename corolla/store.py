"""A store opened by a program: train, classify, embed and measure in this process, without a server.

Records and errors are those of the command line. What computes is imported when something does.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from platformdirs import user_cache_dir

from corolla.answers import Embedding, Prediction
from corolla.contents import PathLike, Setting
from corolla.measuring import reporter_of
from corolla.method_settings import recipe_of
from corolla.tuning import Tuning
from model_store.format.records import Manifest, TaskRecord
from model_store.place.cache import Cache
from model_store.resolution.promotion import after_registration
from model_store.routes.text import parse_route
from model_store.store import Store as ModelStore
from petl_vit.image_input import Interpolation, Resize
from petl_vit.precision import Precision
from serving.settings import Settings
from training.data.augmentation import Augmentation
from training.run.transform import Normalise, with_transform

if TYPE_CHECKING:
    from corolla.in_process import ImageLike, InProcess


class Store(Tuning):
    """A model store, and what this process computes with it; safe to share between threads.

    From the first call to `close`, `classify` and `embed` keep one backbone in memory.

    Args:
        url: Folder (created when missing) or URL of the store; None is COROLLA_STORE, else the user's own.
        backbone: Name or digest of the backbone that computes; None is the only one stored.
        device: Where it runs; `auto` is a GPU where there is one.
        precision: `auto` is bf16 where the hardware has it and answers stay the same. Training says its own.
        threads: CPU threads of a forward of `classify` and `embed`; None is one for each usable CPU.
        max_pixels: Most pixels of a decoded image; None is 50 million. Larger JPEGs are decoded smaller.

    Raises:
        InvalidInput: A setting cannot work, or the store is neither a folder nor a known URL.
    """

    def __init__(
        self,
        url: PathLike | None = None,
        *,
        backbone: str | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        threads: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        given = {
            "store": None if url is None else os.fspath(url),
            "backbone": backbone,
            "device": device,
            "precision": precision,
            "threads": threads,
            "max_pixels": max_pixels,
        }
        settings = Settings.read(given)
        cache = Cache.of_user(settings.store, settings.cache, settings.cache_bytes)
        kept = {} if cache is None else {"cache": str(cache.folder)}
        self._given = {name: getattr(settings, name) for name in given} | kept
        super().__init__(ModelStore.open(settings.store, cache=cache), settings)
        self._in_process: InProcess | None = None
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"corolla.Store({str(self._store)!r})"

    def close(self) -> None:
        """Frees the backbone's memory. It is loaded again when something is classified again."""
        with self._lock:
            if self._in_process is not None:
                self._in_process.close()
            self._in_process = None

    # Computing

    def train(
        self,
        method: str,
        *,
        data: PathLike,
        task: str,
        name: str | None = None,
        heldout: PathLike | None = None,
        holdout: float = 0.2,
        split_seed: int = 0,
        limit: int | None = None,
        shots: int | None = None,
        skip_bad: bool = False,
        image_column: str = "",
        label_column: str = "",
        image_size: int | None = None,
        resize: Resize | None = None,
        crop_ratio: float | None = None,
        interpolation: Interpolation | None = None,
        normalise: Normalise | None = None,
        transform: str | None = None,
        epochs: int = 30,
        batch_size: int = 64,
        learning_rate: float | None = None,
        head_rate: float | None = None,
        weight_decay: float = 1e-4,
        warmup_ratio: float = 0.1,
        drop_path: float | None = None,
        augment: Augmentation | None = None,
        balance: Literal["none", "classes"] = "none",
        init: Literal["method", "published"] = "method",
        head_init: Literal["probe", "random"] = "probe",
        seed: int = 0,
        precision: Literal["fp32", "bf16"] = "fp32",
        keep: Literal["last", "best"] = "last",
        runs: PathLike | None = None,
        again: bool = False,
        promote: bool = False,
        progress: bool = False,
        **settings: Setting,
    ) -> Manifest:
        """Trains an adapter, measures it on held-out images and registers it as the next version of its name.

        A run that was interrupted goes on when it is called again; one that is registered is not repeated.

        Args:
            method: The PETL method, e.g. `lora`; `corolla methods` lists them.
            data: Labelled images: a folder, .zip, .npz, .csv or .parquet, a VTAB-1K task, `hf:NAME`, `digits`
                or `mnist`; `source::part` is a part of it.
            task: Task to register under; made if it does not exist.
            name: Name to register under; None is the method's.
            heldout: Held-out images of their own, instead of a split or a part that `data` has for it.
            holdout: Share of the images that is held out.
            split_seed: Decides the split, `limit` and `shots`.
            limit: Train on at most so many images.
            shots: Train on so many images of each class.
            skip_bad: Leave out images that cannot be used; the manifest's `training["left_out"]` counts them.
            image_size: Input size of a new task, pixels; None is the backbone's.
            image_column, label_column: Of a table or a set of Hugging Face; empty finds them.
            resize: How images of a new task reach it; None is squash.
            crop_ratio: Share of the side that is kept where they are cropped; None is 1.
            interpolation: How they are scaled; None is bicubic.
            normalise: Mean and deviation: `none`, `half`, `imagenet` or `clip`; None is the backbone's.
            transform: One of the study's, e.g. `vtab`: what the four above and `augment` do not say.
            learning_rate: Highest learning rate; None is chosen by method and number of steps.
            head_rate: The head's; None is `learning_rate`, or without it chosen by where the head starts.
            weight_decay: AdamW's.
            warmup_ratio: Share of the steps in which the learning rate rises.
            drop_path: Stochastic depth of the last block; None is the method's own: 0.1, of linear 0.
            augment: Random changes to training images; None is the transform's, else none.
            balance: Show every image once an epoch, or with `classes` every class equally often.
            init: Start the adapter as its method says, or as the study's published runs did.
            head_init: Start the head from the task's base head, or at random (members differ more).
            seed: Decides all randomness of training.
            precision: Of the frozen backbone and the forward; bf16 is for GPUs.
            keep: The epoch that is registered: the last, or the one with the best held-out accuracy.
            runs: Folder for the state of unfinished runs; None is the user's cache.
            again: Train even if this very run is registered already.
            promote: Move `latest` even to an adapter that is far below its base head.
            progress: Show bars on stderr.
            settings: The method's own, such as `rank=8`.

        Raises:
            NotFound: The method, the backbone or the data do not exist.
            InvalidInput: A setting or the data cannot work, or the task exists with other classes or another
                input; names it.
        """
        asked = {
            "resize": resize,
            "crop_ratio": crop_ratio,
            "interpolation": interpolation,
            "normalise": normalise,
        }
        wanted = with_transform(transform, asked | {"augment": augment})
        recipe = recipe_of(
            method,
            settings,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            head_rate=head_rate,
            weight_decay=weight_decay,
            warmup_ratio=warmup_ratio,
            drop_path=drop_path,
            augment=wanted.pop("augment") or "none",
            balance=balance,
            init=init,
            head_init=head_init,
            seed=seed,
            precision=precision,
            keep=keep,
        )

        from training.run import job

        reporter = reporter_of(progress)
        outcome = job.run(
            self._store,
            job.Job(
                backbone=self._store.backbones.get(self._settings.backbone).digest,
                task=task,
                name=name or recipe.method.replace("_", "-"),
                data=os.fspath(data),
                recipe=recipe,
                runs=Path(runs or Path(user_cache_dir("corolla", appauthor=False), "runs")),
                heldout=None if heldout is None else os.fspath(heldout),
                holdout=holdout,
                split_seed=split_seed,
                limit=limit,
                shots=shots,
                max_pixels=self._settings.max_pixels,
                skip_bad=skip_bad,
                image_column=image_column,
                label_column=label_column,
                image_size=image_size,
                **wanted,
                device=self._settings.device,
                again=again,
                promote=promote,
                measure_precision=Precision(self._settings.precision),
            ),
            reporter,
        )
        if not outcome.reused:
            for standing in after_registration(self._store, [outcome.manifest]):
                reporter.note(standing.line)
        self._changed()
        return outcome.manifest

    def refit_head(
        self,
        task: str,
        *,
        data: PathLike,
        heldout: PathLike | None = None,
        holdout: float = 0.2,
        split_seed: int = 0,
        limit: int | None = None,
        shots: int | None = None,
        move_base: bool = False,
        skip_bad: bool = False,
        image_column: str = "",
        label_column: str = "",
        progress: bool = False,
    ) -> TaskRecord:
        """Fits the base head of a task again; the result is the task's next version.

        Adapters that are trained from now on start from it, and the route `base` means it. Adapters that
        exist stay with the version that they were trained for. What it does not say is as in `train`.

        Args:
            move_base: Go on where named routes answer by `base`, which then means the new base head.

        Raises:
            NotFound: The task, the backbone or the data do not exist.
            InvalidInput: The data has other classes than the task.
            Conflict: A version of the task has this base head already, or named routes answer by `base`.
        """
        from training.run import refit

        refitted = refit.refit(
            self._store,
            refit.Job(
                backbone=self._store.backbones.get(self._settings.backbone).digest,
                task=task,
                data=os.fspath(data),
                heldout=None if heldout is None else os.fspath(heldout),
                holdout=holdout,
                split_seed=split_seed,
                limit=limit,
                max_pixels=self._settings.max_pixels,
                shots=shots,
                skip_bad=skip_bad,
                image_column=image_column,
                label_column=label_column,
                device=self._settings.device,
                move_base=move_base,
            ),
            reporter_of(progress),
        )
        self._changed()
        return refitted.task

    def classify(
        self,
        images: "Iterable[ImageLike]",
        *,
        route: str,
        task: str = "",
        top_k: int = 5,
        extrapolate: bool = False,
        progress: bool = False,
    ) -> list[Prediction]:
        """Classifies images, as a server would.

        Args:
            images: Any mixture of encoded images, paths of such files, Pillow images, and pixels
                as uint8 arrays [H, W] or [H, W, 1, 3 or 4].
            route: What answers: `lora`, `0.6*lora, ssf`, or a named route.
            task: Whose classes, in their order, are answered; empty is the only task, or that of the first
                member of a route that names tasks.
            top_k: How many of the most probable classes `Prediction.top` has.
            extrapolate: Whether an alpha may be outside [0, 1].
            progress: Show a bar on stderr.

        Returns:
            One for each image, in order; that of a bad image has an `error`.

        Raises:
            NotFound: A name of the route does not exist.
            InvalidInput: The route cannot be answered.
            Corrupt: Files of the store are damaged.
        """
        parsed, computing = parse_route(route), self._computing()
        several = computing.several(images)
        with reporter_of(progress).stage("classifying", len(several)) as advance:
            return computing.classify(
                several, route=parsed, task=task, extrapolate=extrapolate, top_k=top_k, advance=advance
            )

    def embed(
        self,
        images: "Iterable[ImageLike]",
        *,
        route: str = "",
        task: str = "",
        normalise: bool = False,
        extrapolate: bool = False,
        progress: bool = False,
    ) -> list[Embedding]:
        """Computes the features of images; what it does not say is as in `classify`.

        Args:
            route: One model whose edits the features are under; empty is the frozen backbone.
            task: How images are preprocessed; empty is the only task.
            normalise: Whether every vector is divided by its length.
        """
        parsed, computing = parse_route(route) if route else None, self._computing()
        several = computing.several(images)
        with reporter_of(progress).stage("embedding", len(several)) as advance:
            return computing.embed(
                several,
                route=parsed,
                task=task,
                normalise=normalise,
                extrapolate=extrapolate,
                advance=advance,
            )

    def _computing(self) -> "InProcess":
        """The core, started when it is first needed."""
        from corolla.in_process import InProcess

        with self._lock:
            if self._in_process is None:
                self._in_process = InProcess(self._given)
            return self._in_process

    def _changed(self) -> None:
        """Makes what was just changed count in this process at once."""
        with self._lock:
            if self._in_process is not None:
                self._in_process.follow()
