"""A store of one backbone and many tasks, each with an adapter of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.adapters import CLASSES, HALF, base_head, tensors
from benchmarks.stores import Shelf
from benchmarks.tenants.workload import Tenant
from model_store.format.records import Draft, TaskSpec
from model_store.store import Store
from petl_vit import methods
from petl_vit.image_input import Preprocess
from petl_vit.vit import FrozenViT

ADAPTER = "lora"
_CLASSES = [f"class {i}" for i in range(CLASSES)]


@contextmanager
def store_of(vit: FrozenViT, tasks: Sequence[Tenant]) -> Iterator[Shelf]:
    """A store in a temporary folder; the adapter of every task is called `lora`."""
    with TemporaryDirectory(prefix="corolla-bench-") as folder:
        store = Store.open(str(Path(folder) / "store"))
        backbone = store.backbones.put("bench", vit.config, vit.params, "random")
        preprocess = Preprocess(image_size=vit.arch.image_size, mean=HALF, std=HALF)
        head = base_head(vit).tensors()
        for seed, tenant in enumerate(tasks):
            spec = TaskSpec.of(
                name=tenant.task, classes=_CLASSES, preprocess=preprocess, backbone_digest=backbone.digest
            )
            draft = Draft.of(
                task=tenant.task,
                name=ADAPTER,
                method="lora",
                config=methods.get("lora")().model_dump(mode="json"),
                backbone_digest=backbone.digest,
                task_digest=store.tasks.put(spec, head).digest,
            )
            store.adapters.publish(draft, tensors("lora", vit, seed))
        weights = "\n".join(f'"{tenant.task}" = {tenant.weight}' for tenant in tasks)
        (Path(folder) / "weights.toml").write_text(f"[tasks]\n{weights}\n")
        yield Shelf(folder=Path(folder), adapters=(ADAPTER,), preprocess=preprocess)
