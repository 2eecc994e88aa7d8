"""What 100 adapters add to the memory of one backbone.

    python -m benchmarks.memory --quick

A fresh process starts a server (ViT-B/16), answers under one LoRA r=8 adapter, and is measured; loads 100
others into slots, all with heads of 10 classes, and is measured; answers under all of them, 32 at a time,
and is measured once more. Before each look, garbage is collected and freed pages are given back.

extra_over_backbone: the larger of two figures, each over the bytes of the backbone's parameters: what the
bank says that the 100 take, and what the resident memory grew by when they were loaded. Beside it, what it
has grown by after they answered: what mixed forwards leave behind between other memory counts there too.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from rich.table import Table

from benchmarks.adapters import backbone
from benchmarks.inprocess import InProcess, in_process
from benchmarks.report import emit, parser, progress, stop_on_terminate
from benchmarks.resident import resident_bytes
from benchmarks.stores import Shelf, shelf

REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes.

    Attributes:
        account: What the adapters take, as the bank says.
        loaded: What the resident memory of the process grew by when they were loaded.
        used: The same after they answered.
    """

    backbone: int
    account: int
    loaded: int
    used: int


def measure(found: Shelf) -> Memory:
    """Starts a server in this process, which should be a fresh one."""
    with in_process(found.settings(precision="fp32"), found.preprocess.image_size) as server:
        first, *others = found.adapters
        settled, registered = _settled(server, [first] * len(others)), server.registered_bytes
        before = resident_bytes()  # as the last forward left it, which loading does not change
        server.load(others)
        loaded, account = resident_bytes() - before, server.registered_bytes - registered
        used = _settled(server, others) - settled
        return Memory(backbone=server.backbone_bytes, account=account, loaded=loaded, used=used)


def _settled(server: InProcess, names: Sequence[str]) -> int:
    """Resident memory once answering takes no more: what forwards leave behind comes and goes."""
    sizes = []
    for _ in range(REPEATS):
        server.ask(names)
        sizes.append(resident_bytes())
    return min(sizes)


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_base_patch16_224")
    flags.add_argument("--image-size", type=int, default=64, help="adapters take the same at every size")
    flags.add_argument("--adapters", type=int, default=100)
    asked = flags.parse_args(given)
    progress(f"writing {asked.adapters} adapters")
    vit, _ = backbone(asked.architecture, asked.image_size)
    with shelf(vit, ["lora"], asked.adapters + 1) as found:
        progress("measuring in a fresh process")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            memory = fresh.submit(measure, found).result()
    table = Table("what", "MiB", "of the backbone", title=f"{asked.adapters} LoRA r=8, {asked.architecture}")
    rows = {
        "backbone": memory.backbone,
        "adapters, account": memory.account,
        "adapters, RSS when loaded": memory.loaded,
        "adapters, RSS after use": memory.used,
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / 2**20:.1f}", f"{size / memory.backbone:.3f}")
    emit(
        "memory",
        [table],
        {
            "architecture": asked.architecture,
            "adapters": asked.adapters,
            "quick": asked.quick,
            "extra_over_backbone": max(memory.account, memory.loaded) / memory.backbone,
            "extra_over_backbone_account": memory.account / memory.backbone,
            "extra_over_backbone_rss": memory.loaded / memory.backbone,
            "extra_over_backbone_rss_after_use": memory.used / memory.backbone,
            "backbone_bytes": memory.backbone,
            "account_bytes": memory.account,
            "rss_bytes": memory.loaded,
            "rss_after_use_bytes": memory.used,
        },
    )


if __name__ == "__main__":
    stop_on_terminate()
    main()
