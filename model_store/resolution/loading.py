"""From records to what runs: the backbone at every image size, heads and adapters, all checked.

Knows a store and one backbone on one device. Keeps the backbone and the base heads; keeps no adapter.
"""

import threading
from collections.abc import Sequence

import torch

from model_store.format.records import BackboneRecord, Manifest, TaskRecord
from model_store.resolution.versions import Member, ResolvedRoute, ResolvedTerm
from model_store.routes.alpha import Alpha, values
from model_store.store import Store
from petl_vit import heads, methods
from petl_vit.adapter import Adapter
from petl_vit.architecture import describe
from petl_vit.batch import Model, Term
from petl_vit.errors import Corrupt, InvalidInput, NotFound
from petl_vit.heads import Head
from petl_vit.precision import Precision
from petl_vit.products import in_precision
from petl_vit.vit import FrozenViT


class Loader:
    """Loads what a backbone needs, once.

    Args:
        store: Where it is.
        record: The backbone.
        device, precision: Where and how it runs, never `AUTO`; heads run on the host.

    Raises:
        Corrupt: The backbone's file is not what its digest says.
        Unsupported: Its architecture cannot be run.
    """

    def __init__(
        self,
        store: Store,
        record: BackboneRecord,
        *,
        device: torch.device | None = None,
        precision: Precision = Precision.FP32,
    ) -> None:
        self.store, self.record, self.precision = store, record, precision
        self._device = device or torch.device("cpu")
        tensors = {n: t.to(device=self._device) for n, t in store.backbones.load(record).items()}
        self._tensors = in_precision(tensors, precision)
        self._vits: dict[int, FrozenViT] = {}
        self._heads: dict[str, Head] = {}
        self._lock = threading.Lock()

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def backbone_bytes(self) -> int:
        return sum(t.nbytes for t in self._tensors.values())

    def vit(self, image_size: int) -> FrozenViT:
        """The backbone at an image size, pixels; sizes share all but the position embedding."""
        with self._lock:
            if image_size not in self._vits:
                self._vits[image_size] = FrozenViT(self.record.config, self._tensors, image_size=image_size)
            return self._vits[image_size]

    def base_head(self, task: TaskRecord) -> Head:
        """The task's head at alpha = 0.

        Raises:
            Corrupt: Its file is not what its digest says.
        """
        with self._lock:
            if task.digest not in self._heads:
                tensors = self.store.tasks.load_base_head(task)
                width = describe(self.record.config).features
                head = heads.load(tensors, classes=len(task.spec.classes), width=width)
                self._heads[task.digest] = head.to(device=torch.device("cpu"), dtype=torch.float32)
            return self._heads[task.digest]

    def adapter(self, term: ResolvedTerm) -> Adapter:
        """The adapter, verified and ready to run.

        Raises:
            Corrupt: Its file, digest, config, tensor names or shapes are wrong.
        """
        vit, base_head = self.vit(term.task.spec.preprocess.image_size), self.base_head(term.task)
        if term.manifest is None:
            return Adapter.base(base_head=base_head, task_digest=term.task.digest)
        try:
            method = methods.get(term.manifest.method).configure(term.manifest.config)
            return Adapter.load(
                digest=term.manifest.digest,
                method=method,
                tensors=self.store.adapters.load(term.manifest),
                vit=vit,
                base_head=base_head,
                task_digest=term.task.digest,
            )
        except (InvalidInput, NotFound, Corrupt) as error:
            raise Corrupt(
                f"adapter {term.full_name} cannot be loaded: {error.problem}",
                field=error.field,
                remedy=error.remedy or "train or import it again",
            ) from error

    def check_same(self, term: ResolvedTerm, known: Manifest) -> None:
        """Checks a version against one with the same digest whose file was read: its digest covers these.

        Raises:
            Corrupt: They differ where the digest would, too.
            Untrusted: Somebody has to vouch for it, and nobody does.
        """
        manifest = term.manifest
        assert manifest is not None, "a task's base has no manifest"
        for field in ("digest", "method", "config", "backbone_digest", "task_digest"):
            if getattr(manifest, field) != getattr(known, field):
                raise Corrupt(
                    f"adapter {term.full_name} says it has the digest of {known.name}:{known.version}",
                    field=field,
                    remedy="remove it, and publish it again",
                )
        self.store.adapters.signatures.check(manifest)

    def model(self, member: Member) -> Model:
        """A member as it runs.

        Raises:
            Corrupt: As `adapter` does.
        """
        return model(member, {term.digest: self.adapter(term) for term in member.terms})

    def models(self, route: ResolvedRoute) -> tuple[Model, ...]:
        """A route's members as they run, in order; an adapter of several members is loaded once.

        Raises:
            Corrupt: As `adapter` does.
        """
        return models(route.members, {term.digest: self.adapter(term) for term in route.terms()})


MemberKey = tuple[tuple[str, Alpha], ...]


def member_key(member: Member) -> MemberKey:
    """Equal for members that compute the same: digests and alphas."""
    return tuple((term.digest, term.alpha) for term in member.terms)


def model(member: Member, adapters: dict[str, Adapter]) -> Model:
    """A member as it runs, from its adapters by digest."""
    return Model([Term(adapter=adapters[term.digest], alpha=values(term.alpha)) for term in member.terms])


def models(members: Sequence[Member], adapters: dict[str, Adapter]) -> tuple[Model, ...]:
    """The members of a route as they run, in order, from their adapters by digest."""
    return tuple(model(member, adapters) for member in members)
