"""The reference of an adapter, from the same held-out forwards that gave it its metrics.

Shapes: n images, C classes, D the backbone's width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from model_store.format.records import Manifest
from model_store.format.reference import ReferenceData
from model_store.resolution.reference import route_of_adapter
from model_store.store import Store
from petl_vit.errors import CorollaError
from petl_vit.precision import Precision
from training.measure.reference import Observed, reference
from training.run.heldout import HeldOut


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What an adapter says of held-out images.

    Attributes:
        logits: [n, C]
        base: [n, C] of the task's base head.
        features: [n, D] of the frozen backbone.
        precision: What they were computed in.
    """

    heldout: HeldOut
    logits: Tensor
    base: Tensor
    features: Tensor
    precision: Precision

    def keep(self, store: Store, manifest: Manifest, note: Callable[[str], None]) -> None:
        """Keeps the reference of the adapter, once it is registered.

        Where that fails a note says so, and the adapter stays registered.
        """
        data = self.heldout.dataset
        observed = Observed(
            logits=self.logits.float().numpy()[:, None],
            labels=self.heldout.labels.numpy(),
            features=self.features.double().numpy().astype(np.float64),
            base=self.base.argmax(dim=-1).numpy(),
        )
        try:
            store.references.put(
                reference(
                    observed,
                    route=route_of_adapter(store, manifest),
                    data=ReferenceData(name=data.name, digest=data.digest, images=len(data)),
                    classes=data.classes,
                    precision=self.precision,
                )
            )
        except CorollaError as error:
            note(
                f"{manifest} is registered without a reference for monitoring ({error}); "
                "`corolla routes reference` measures that of a named route"
            )
