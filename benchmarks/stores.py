"""Model stores of random adapters, for benchmarks that go through a store or a server."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.adapters import CLASSES, HALF, base_head, tensors
from model_store.format.records import Draft, TaskSpec
from model_store.store import Store
from petl_vit import methods
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from petl_vit.vit import FrozenViT
from serving.settings import Settings

TASK = "bench"


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A store of one backbone and one task.

    Attributes:
        adapters: Names; number i holds the tensors of its method with seed i.
        preprocess: How the task takes images.
    """

    folder: Path
    adapters: tuple[str, ...]
    preprocess: Preprocess

    @property
    def url(self) -> str:
        return str(self.folder / "store")

    @property
    def key_file(self) -> Path:
        """The key of prediction ids."""
        return self.folder / "prediction.key"

    def settings(self, **changes: object) -> Settings:
        """A server's settings over this store: free ports, and nothing written elsewhere."""
        chosen: dict[str, object] = {
            "store": self.url,
            "port": 0,
            "metrics_port": 0,
            "device": "cpu",
            "prediction_key_file": str(self.key_file),
        }
        return Settings(**(chosen | changes))  # type: ignore[arg-type]


@contextmanager
def shelf(
    vit: FrozenViT,
    names: Sequence[str],
    count: int,
    *,
    head: LinearHead | None = None,
    classes: int = CLASSES,
) -> Iterator[Shelf]:
    """A store in a temporary folder with so many adapters, the methods taking turns.

    Args:
        head: Of all adapters; None means a random one for each.
    """
    with TemporaryDirectory(prefix="corolla-bench-") as folder:
        yield _filled(Path(folder), vit, list(islice(cycle(names), count)), head, classes)


def _filled(folder: Path, vit: FrozenViT, chosen: list[str], head: LinearHead | None, classes: int) -> Shelf:
    store = Store.open(str(folder / "store"))
    backbone = store.backbones.put("bench", vit.config, vit.params, "random")
    preprocess = Preprocess(image_size=vit.arch.image_size, mean=HALF, std=HALF)
    named = [f"class {i}" for i in range(classes)]
    spec = TaskSpec.of(name=TASK, classes=named, preprocess=preprocess, backbone_digest=backbone.digest)
    task = store.tasks.put(spec, base_head(vit, classes).tensors())
    adapters = tuple(f"{method.replace('_', '-')}-{seed}" for seed, method in enumerate(chosen))
    for seed, (name, method) in enumerate(zip(adapters, chosen, strict=True)):
        draft = Draft.of(
            task=TASK,
            name=name,
            method=method,
            config=methods.get(method)().model_dump(mode="json"),
            backbone_digest=backbone.digest,
            task_digest=task.digest,
        )
        store.adapters.publish(draft, tensors(method, vit, seed, classes) | (head.tensors() if head else {}))
    return Shelf(folder=folder, adapters=adapters, preprocess=preprocess)
