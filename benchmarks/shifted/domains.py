"""Labelled images of one origin, and what models say of them: logits, the base head's answers, features.

What was computed before is taken from the folder of logits that `corolla evaluate` fills too.

Shapes: n images, K members of a route, C classes, D the backbone's width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import JsonValue

from model_store.format.records import TaskRecord
from model_store.resolution.loading import Loader
from model_store.resolution.versions import ResolvedRoute
from petl_vit.adapter import Adapter
from petl_vit.batch import Batch, Features, Term
from petl_vit.image_input import Preprocess
from petl_vit.logits import images_at_once, logits_over
from petl_vit.preprocess import normalise
from training.data import shifts
from training.data.dataset import align_classes
from training.data.loading import Resized
from training.data.records import Dataset
from training.measure.arrays import Floats, Labels, Rows
from training.measure.logit_store import LogitStore
from training.measure.logits import Logits, Part, Shift, logits_under, parts_of
from training.progress import Reporter


@dataclass(frozen=True, kw_only=True, eq=False)
class Domain:
    """What is known of the images of one origin.

    Attributes:
        name: For tables, and as a server's domain.
        labels: [n], by the order of the routes' classes.
        logits: Of every member of every route.
        features: [n, D], of the frozen backbone.
        base: [n, C], the logits of the task's base head.
    """

    name: str
    labels: Labels
    logits: Logits
    features: Floats
    base: Floats

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, places: Labels) -> "Domain":
        """Some of the images, in this order."""
        members = {key: rows[places] for key, rows in self.logits.members.items()}
        return replace(
            self,
            labels=self.labels[places],
            logits=replace(self.logits, members=members),
            features=self.features[places],
            base=self.base[places],
        )

    def of(self, route: ResolvedRoute) -> Floats:
        """[n, K, C]"""
        return self.logits.of(route)


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Who is asked.

    Attributes:
        routes: Of one task; their members prepare images alike.
    """

    loader: Loader
    routes: Sequence[ResolvedRoute]
    store: LogitStore

    def under(
        self, dataset: Dataset, named: Sequence[tuple[str, Shift | None]], reporter: Reporter
    ) -> list[Domain]:
        """A set as it is or under shifts, each a domain of this name."""
        images = align_classes(dataset, self.routes[0].classes)
        under = [shift for _, shift in named]
        with reporter.stage(f"logits of {dataset.name}", len(images) * len(under)) as advance:
            found = logits_under(self.loader, self.routes, images, under, store=self.store, advance=advance)
        with reporter.stage(f"features of {dataset.name}", len(images) * len(under)) as advance:
            features = [self._features(images, shift, advance) for shift in under]
        return [
            Domain(
                name=name,
                labels=images.labels.numpy(),
                logits=logits,
                features=of_images,
                base=self._base(of_images),
            )
            for (name, _), logits, of_images in zip(named, found, features, strict=True)
        ]

    @property
    def _task(self) -> TaskRecord:
        return self.routes[0].task

    def _base(self, features: Floats) -> Floats:
        """[n, C], of [n, D]"""
        logits = self.loader.base_head(self._task).logits(torch.from_numpy(features))
        return logits.numpy().astype(np.float64)

    def _features(self, dataset: Dataset, shift: Shift | None, advance: Callable[[int], None]) -> Floats:
        """[n, D], in the order of the set."""
        spec = self.routes[0].preprocess
        vit = self.loader.vit(spec.image_size)
        images = Resized(dataset, spec, vit, kept_bytes=0)
        features = np.empty((len(dataset), vit.arch.features))
        for part in parts_of(dataset):
            key = LogitStore.key(self._key(spec, shift, part), part.fingerprints)
            rows = self.store.load(key, len(part.indices))
            if rows is None:
                pixels = images.pixels(torch.from_numpy(part.indices))
                seen = pixels if shift is None else shifts.apply(pixels, *shift, seed=part.start)
                rows = self._computed(seen, spec)
                self.store.save(key, rows)
            features[part.indices] = rows
            advance(len(part.indices))
        return features

    def _computed(self, pixels: torch.Tensor, spec: Preprocess) -> Rows:
        """[b, D] of uint8 [b, 3, S, S]."""
        head = self.loader.base_head(self._task)
        base = Adapter.base(base_head=head, task_digest=self._task.digest)
        batches = (normalise(some, spec) for some in pixels.split(images_at_once(1)))
        batch = Batch(self.loader.vit(spec.image_size))
        (rows,) = logits_over(batch, [Features([Term(adapter=base)])], batches)
        return rows.float().numpy()

    def _key(self, spec: Preprocess, shift: Shift | None, part: Part) -> dict[str, JsonValue]:
        """What decides the features, besides the images."""
        return {
            "features": "frozen",
            "backbone": self.loader.record.digest,
            "precision": str(self.loader.precision),
            "preprocess": spec.model_dump(mode="json"),
            "shift": None if shift is None else [*shift, part.start],
        }
