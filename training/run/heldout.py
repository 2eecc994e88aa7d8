"""Held-out images: what models say of them, and an adapter's draft with what was measured on them.

Shapes: n images, C classes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from torch import Tensor

from model_store.format.records import Draft, Manifest, TaskRecord
from model_store.names import LATEST
from model_store.resolution.loading import Loader
from model_store.store import Store
from petl_vit.adapter import Adapter
from petl_vit.architecture import Architecture
from petl_vit.batch import Batch, Features, Model, Term
from petl_vit.logits import images_at_once, logits_over
from petl_vit.methods.method import Method
from petl_vit.precision import Precision
from training.data.loading import Resized
from training.data.records import Dataset
from training.measure.calibration import calibrate, measure
from training.run.planned import Planned
from training.run.trainer import Trained

_FAR = 0.05
_DEVIATIONS = 2.0


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Labelled images that no adapter was trained on.

    Attributes:
        dataset: What they are.
        images: The same, as the backbone takes them.
        holdout: The share of the images that they were split off; None for a set of its own.
        split_seed: Decides that split.
    """

    dataset: Dataset
    images: Resized
    holdout: float | None
    split_seed: int

    @property
    def labels(self) -> Tensor:
        return self.images.labels

    def logits(
        self, batch: Batch, models: Sequence[Model], advance: Callable[[int], None] = lambda n: None
    ) -> list[Tensor]:
        """The logits [n, C] of each model, on the host; all models share the forwards.

        Args:
            advance: Called with the number of images that are done.
        """
        return self._over(batch, models, images_at_once(len(models)), advance)

    def answers(
        self, batch: Batch, models: Sequence[Model], advance: Callable[[int], None] = lambda n: None
    ) -> tuple[list[Tensor], Tensor]:
        """As `logits`, and the frozen features [n, D] of the same forwards.

        Args:
            models: The last is the base, whose row gives the features too.
        """
        frozen, size = (
            Features(models[-1].terms),
            images_at_once(len(models)),
        )  # whose rows cost next to nothing
        *logits, features = self._over(batch, [*models, frozen], size, advance)
        return logits, features

    def _over(
        self, batch: Batch, models: Sequence[Model], size: int, advance: Callable[[int], None]
    ) -> list[Tensor]:
        batches = self.images.batches(size)
        return logits_over(batch, models, (self.images.batch(indices) for indices in batches), advance)

    def far_below(self, logits: Tensor, base: Tensor) -> bool:
        """Whether an adapter's accuracy is five points or more below the base head's, and not by chance.

        Of the images that only one of the two answers rightly, chance gives each about half.
        """
        right, base_right = (z.argmax(dim=-1) == self.labels for z in (logits, base))
        lost, won = int((base_right & ~right).sum()), int((right & ~base_right).sum())
        return lost - won >= max(1, _FAR * len(self.labels), _DEVIATIONS * math.sqrt(lost + won))

    def drafted(
        self,
        *,
        task: TaskRecord,
        name: str,
        method: Method,
        training: dict[str, JsonValue],
        logits: Tensor,
        base: Tensor,
        arch: Architecture,
        precision: Precision,
    ) -> Draft:
        """An adapter as it is published: with its temperature, its metrics and where they come from.

        Where it is `far_below` its base head, `training` says so.

        Args:
            training: How the adapter was made; what is known of these images is added.
            logits: [n, C] of the adapter.
            base: [n, C] of the frozen backbone with the task's base head.
            arch: The backbone, for the number of parameters.
            precision: What the logits were computed in.
        """
        calibration = calibrate(logits, self.labels)
        metrics = measure(logits, self.labels, temperature=calibration.temperature) | {
            "base_accuracy": measure(base, self.labels, temperature=1.0)["accuracy"],
            "parameters": float(method.parameters(arch)),
        }
        return Draft.of(
            task=task.spec.name,
            name=name,
            method=method.name,
            config=method.model_dump(mode="json"),
            backbone_digest=task.spec.backbone_digest,
            task_digest=task.digest,
            temperature=calibration.temperature,
            metrics=metrics,
            metrics_precision=precision,
            training=training
            | {
                "heldout": self.dataset.name,
                "heldout_digest": self.dataset.digest,
                "heldout_images": len(self.dataset),
                "holdout": self.holdout,
                "split_seed": self.split_seed,
            }
            | ({"temperature_unfitted": calibration.unfitted} if calibration.unfitted else {})
            | ({"far_below_base": True} if self.far_below(logits, base) else {}),
        )


def below_base(manifest: Manifest, latest: int | None) -> str:
    """That an adapter is far below its base head, and how to promote it if `latest` did not move; else empty.

    Args:
        latest: The version that `latest` points at.
    """
    if not manifest.training.get("far_below_base"):
        return ""
    accuracy, base = manifest.metrics["accuracy"], manifest.metrics["base_accuracy"]
    problem = f"{manifest} is far below its base head ({accuracy:.3f}, {base:.3f})"
    if latest == manifest.version:
        return f"{problem}, and `latest` points at it"
    return (
        f"{problem}, so `latest` stays at version {latest}; to move it nevertheless: "
        f"corolla adapters alias {manifest.task}/{manifest.name} {LATEST} {manifest.version}"
    )


def compare_with_previous(store: Store, manifest: Manifest, note: Callable[[str], None]) -> None:
    """Says so where the version before did better on the same held-out images."""
    versions = [v for v in store.adapters.versions(manifest.task, manifest.name) if v < manifest.version]
    if not versions:
        return
    before = store.adapters.manifest(manifest.task, manifest.name, versions[-1])
    if before.training.get("heldout_digest") != manifest.training["heldout_digest"]:
        return
    was, now = before.metrics.get("accuracy", 0.0), manifest.metrics["accuracy"]
    if now < was:
        back = f"corolla adapters alias {before.task}/{before.name} {LATEST} {before.version}"
        latest = store.adapters.version_of(manifest.task, manifest.name, LATEST)
        note(
            f"{before} did better on the same held-out images: {was:.3f}, now {now:.3f}"
            + (f"; to go back to it: {back}" if latest == manifest.version else "")
        )


def models_of(task: TaskRecord, trained: Sequence[tuple[Planned, Trained]], loader: Loader) -> list[Model]:
    """What was trained, and last the base, as a server runs them."""
    vit, base_head = loader.vit(task.spec.preprocess.image_size), loader.base_head(task)
    adapters = [
        Adapter.load(
            digest=adapter.name,
            method=adapter.method,
            tensors=result.tensors | result.head.tensors(),
            vit=vit,
            base_head=base_head,
            task_digest=task.digest,
        )
        for adapter, result in trained
    ]
    adapters.append(Adapter.base(base_head=base_head, task_digest=task.digest))
    return [Model([Term(adapter=adapter)]) for adapter in adapters]
