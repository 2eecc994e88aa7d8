"""What 100 adapters add to the memory of one backbone.

    python -m benchmarks.memory --quick

A fresh process starts a server (ViT-B/16), answers under the frozen backbone, and is measured; then it answers once
under each of 100 LoRA r=8 adapters with heads of 10 classes, and is measured again.

extra_over_backbone: the larger of two figures, each over the bytes of the backbone's parameters: what the bank
says that the adapters take, and what the resident memory of the process grew by (after collecting garbage
and giving freed pages back).
"""

import ctypes
import gc
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import psutil
from rich.table import Table

from benchmarks.adapters import backbone
from benchmarks.inprocess import IN_FLIGHT, in_process
from benchmarks.report import emit, parser, progress
from benchmarks.stores import Shelf, shelf


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes.

    Attributes:
        account: What the adapters take, as the bank says.
        grown: What the resident memory of the process grew by.
    """

    backbone: int
    account: int
    grown: int


def measure(found: Shelf) -> Memory:
    """Starts a server in this process, which should be a fresh one."""
    with in_process(found.settings(), found.preprocess.image_size) as server:
        server.ask(["base"] * 2 * IN_FLIGHT)
        before, registered = resident_bytes(), server.registered_bytes
        server.ask(found.adapters)
        return Memory(
            backbone=server.backbone_bytes,
            account=server.registered_bytes - registered,
            grown=resident_bytes() - before,
        )


def resident_bytes() -> int:
    """Resident memory of this process without what it could give back."""
    gc.collect()
    with suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_base_patch16_224")
    flags.add_argument("--image-size", type=int, default=64, help="adapters take the same at every size")
    flags.add_argument("--adapters", type=int, default=100)
    asked = flags.parse_args(given)
    progress(f"writing {asked.adapters} adapters")
    vit, _ = backbone(asked.architecture, asked.image_size)
    with shelf(vit, ["lora"], asked.adapters) as found:
        progress("measuring in a fresh process")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            memory = fresh.submit(measure, found).result()
    table = Table("what", "MiB", "of the backbone", title=f"{asked.adapters} LoRA r=8, {asked.architecture}")
    rows = {"backbone": memory.backbone, "adapters, account": memory.account, "adapters, RSS": memory.grown}
    for name, size in rows.items():
        table.add_row(name, f"{size / 2**20:.1f}", f"{size / memory.backbone:.3f}")
    emit(
        "memory",
        [table],
        {
            "architecture": asked.architecture,
            "adapters": asked.adapters,
            "quick": asked.quick,
            "extra_over_backbone": max(memory.account, memory.grown) / memory.backbone,
            "extra_over_backbone_account": memory.account / memory.backbone,
            "extra_over_backbone_rss": memory.grown / memory.backbone,
            "backbone_bytes": memory.backbone,
            "account_bytes": memory.account,
            "rss_bytes": memory.grown,
        },
    )


if __name__ == "__main__":
    main()
