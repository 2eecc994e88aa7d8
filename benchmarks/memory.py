"""What 100 adapters add to the memory of one backbone, and what a running server takes beside its model.

    python -m benchmarks.memory --quick

A fresh process starts a server (ViT-B/16), answers under one LoRA r=8 adapter, and is measured; loads 100
others into slots, all with heads of 10 classes, and is measured; answers under all of them, 32 at a time,
and is measured once more. Before each look, garbage is collected and freed pages are given back.

extra_over_backbone: the larger of two figures, each over the bytes of the backbone's parameters: what the
adapter cache counts for the 100, and what the resident memory grew by when they were loaded. Beside it, what
it grew by after they answered: what mixed forwards leave behind between other memory counts there too.

Then `corolla serve` over eight adapters of eight methods is asked by four callers over gRPC, JPEGs of varied
numbers by varied routes, and its resident memory is read ten times a second once it is warm.

rss_over_account: the most that was resident, less what a process takes that only imports torch, over the
account of what a server must hold: the backbone, the adapters and the buffers of rows, as its gauges say; the
activations of one forward of as many rows as it may have, in one block (the stream, its norm and the product,
of the width each, and queries, keys and values or the hidden layer, in fp32, though bf16 needs less); and the
images of all callers, preprocessed, with as many decoded as there are threads for it.
rss_swing_mib: the most less the least that was resident.

In bf16 the server is warm once every adapter was compared with fp32. Until then, for some seconds after
adapters were loaded, the backbone in fp32 is in memory beside the one that serves.
"""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import psutil
from rich.table import Table

from benchmarks.adapters import backbone
from benchmarks.inprocess import InProcess, in_process
from benchmarks.processes import Corolla, corolla
from benchmarks.report import Figure, emit, parser, progress, stop_on_terminate
from benchmarks.resident import resident_bytes, sizes, with_torch_alone
from benchmarks.stores import Shelf, shelf
from benchmarks.varied import CALLERS, asked, waiting_bytes
from petl_vit.architecture import Architecture
from serving.settings import Settings

REPEATS = 3
METHODS = ["linear", "bitfit", "ssf", "lora", "adaptformer", "vpt_deep", "repadapter", "convpass"]
_MIB = 2**20
_LONGEST_CHECK_S = 180


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes.

    Attributes:
        account: What the adapters take, as the adapter cache says.
        loaded: What the resident memory of the process grew by when they were loaded.
        used: The same after they answered.
    """

    backbone: int
    account: int
    loaded: int
    used: int


def measure(found: Shelf, precision: str) -> Memory:
    """Starts a server in this process, which should be a fresh one."""
    with in_process(found.settings(precision=precision), found.preprocess.image_size) as server:
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


@dataclass(frozen=True, kw_only=True)
class Running:
    """Resident bytes of a server.

    Attributes:
        torch: What importing torch alone takes, in a process of its own.
        started: When it says that it serves.
        sizes: Of every tenth of a second under load.
        account: What it must hold, by part.
    """

    torch: int
    started: int
    sizes: list[int]
    account: dict[str, int]
    images: int

    @property
    def over_account(self) -> float:
        return (max(self.sizes) - self.torch) / sum(self.account.values())

    @property
    def swing(self) -> int:
        return max(self.sizes) - min(self.sizes)


def under_load(found: Shelf, arch: Architecture, precision: str, *, warm_s: float, seconds: float) -> Running:
    """Starts a server in a process of its own and asks it for so long."""
    torch_alone = with_torch_alone()
    with corolla(found, "--precision", precision) as server:
        process = psutil.Process(server.tree.process.pid)
        started = int(process.memory_info().rss)
        with asked(server.address, found.adapters) as answered:
            sizes(process, warm_s)
            if precision == "bf16":
                _wait_until_compared(server, process, len(found.adapters))
            before = sum(answered)
            taken = sizes(process, seconds)
            images = sum(answered) - before
        return Running(
            torch=torch_alone, started=started, sizes=taken, account=_account(server, arch), images=images
        )


def _wait_until_compared(server: Corolla, process: psutil.Process, adapters: int) -> None:
    """Until every adapter was compared with fp32, for which the backbone is in memory in fp32, too."""
    for _ in range(_LONGEST_CHECK_S):
        sizes(process, 1.0)
        if server.value("corolla_precision_difference_ratio_count") >= adapters:
            break
    sizes(process, 12.0)  # the longest pause after a comparison, and the release


def _account(server: Corolla, arch: Architecture) -> dict[str, int]:
    settings = Settings.model_fields
    tokens = arch.grid**2 + arch.prefix_tokens
    row = tokens * (3 * arch.width + max(3 * arch.width, arch.fc1_width)) * 4
    return {
        "backbone": int(server.value("corolla_backbone_bytes")),
        "adapters": int(server.value("corolla_registered_bytes")),
        "row buffers": int(server.value("corolla_row_buffer_bytes")),
        "activations": settings["max_batch_rows"].default * row,
        "images": waiting_bytes(arch.image_size, Settings().decoders()),
    }


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_base_patch16_224")
    flags.add_argument("--image-size", type=int, default=64, help="adapters take the same at every size")
    flags.add_argument("--adapters", type=int, default=100)
    flags.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    flags.add_argument("--seconds", type=float, help="under load")
    given_flags = flags.parse_args(given)
    quick, precision = given_flags.quick, given_flags.precision
    seconds = given_flags.seconds or (25.0 if quick else 120.0)
    progress(f"writing {given_flags.adapters} adapters")
    vit, _ = backbone(given_flags.architecture, given_flags.image_size)
    with shelf(vit, ["lora"], given_flags.adapters + 1) as found:
        progress("measuring in a fresh process")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            memory = fresh.submit(measure, found, precision).result()
    with shelf(vit, METHODS, len(METHODS)) as found:
        progress(f"measuring a server for {seconds:.0f} s")
        running = under_load(found, vit.arch, precision, warm_s=seconds / 2, seconds=seconds)
    title = f"{given_flags.architecture}, {given_flags.image_size} px, {precision}"
    emit(
        "memory",
        [_adapters_table(memory, given_flags.adapters, title), _running_table(running, title)],
        {
            "architecture": given_flags.architecture,
            "image_size": given_flags.image_size,
            "precision": precision,
            "adapters": given_flags.adapters,
            "quick": quick,
            **_adapters_figures(memory),
            **_running_figures(running),
            "seconds": seconds,
        },
    )


def _adapters_table(memory: Memory, count: int, title: str) -> Table:
    table = Table("what", "MiB", "of the backbone", title=f"{count} LoRA r=8, {title}")
    rows = {
        "backbone": memory.backbone,
        "adapters, account": memory.account,
        "adapters, RSS when loaded": memory.loaded,
        "adapters, RSS after use": memory.used,
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / _MIB:.1f}", f"{size / memory.backbone:.3f}")
    return table


def _adapters_figures(memory: Memory) -> dict[str, Figure]:
    return {
        "extra_over_backbone": max(memory.account, memory.loaded) / memory.backbone,
        "extra_over_backbone_account": memory.account / memory.backbone,
        "extra_over_backbone_rss": memory.loaded / memory.backbone,
        "extra_over_backbone_rss_after_use": memory.used / memory.backbone,
        "backbone_bytes": memory.backbone,
        "account_bytes": memory.account,
        "rss_bytes": memory.loaded,
        "rss_after_use_bytes": memory.used,
    }


def _running_table(running: Running, title: str) -> Table:
    table = Table("what", "MiB", title=f"a server under load, {title}")
    rows = {
        "import torch alone": running.torch,
        **{f"account: {part}": size for part, size in running.account.items()},
        "RSS when it serves": running.started,
        "RSS under load, least": min(running.sizes),
        "RSS under load, most": max(running.sizes),
        "neither torch nor in the account": max(running.sizes)
        - running.torch
        - sum(running.account.values()),
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / _MIB:.1f}")
    return table


def _running_figures(running: Running) -> dict[str, Figure]:
    return {
        "rss_over_account": running.over_account,
        "rss_swing_mib": running.swing / _MIB,
        "rss_torch_mib": running.torch / _MIB,
        "rss_started_mib": running.started / _MIB,
        "rss_least_mib": min(running.sizes) / _MIB,
        "rss_most_mib": max(running.sizes) / _MIB,
        "account_mib": sum(running.account.values()) / _MIB,
        "images_under_load": running.images,
        "callers": CALLERS,
    }


if __name__ == "__main__":
    stop_on_terminate()
    main()
