"""The servers that are compared: one for all tasks, one for each group of them, one without fairness."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.processes import Corolla, corolla
from benchmarks.report import progress
from benchmarks.stores import Shelf
from benchmarks.tenants.slices import sliced
from benchmarks.tenants.workload import Tenant

SHARED, UNFAIR = "one backbone, fair", "one backbone, in order"
PARTITION, COPIES = "a copy and a part of the machine for each group", "a copy for each group"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Servers, and which of them answers for a task.

    Attributes:
        place: The position of its server, by task.
        cores: Of the machine in whose fixed parts the servers run; None where they share it freely.
    """

    servers: Sequence[Corolla]
    place: Mapping[str, int]
    cores: int | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """While it is asked, it runs in its part of the machine."""
        if self.cores is None:
            yield
            return
        with sliced([server.tree for server in self.servers], self.cores):
            yield

    @property
    def memory_bytes(self) -> int:
        """What it takes of the machine's memory; what processes share is divided among them."""
        return sum(server.tree.proportional_bytes() for server in self.servers)


@contextmanager
def variants(
    found: Shelf, dealt: Sequence[Sequence[Tenant]], *, threads: int, precision: str
) -> Iterator[dict[str, Variant]]:
    """All of them, running; those that are not asked take no CPU time.

    Args:
        dealt: The groups of tasks.
        threads: CPU threads of a server for all tasks; one for a group has as many, and at least 1, as are
            left for each when all compute.
    """
    everybody = [tenant.task for group in dealt for tenant in group]
    alone = ("--threads", str(threads), "--weights", str(found.folder / "weights.toml"))
    each = ("--threads", str(max(1, threads // len(dealt))))
    common = ("--precision", precision, "--max-queue-rows", "1000000", "--refresh-s", "600")
    with ExitStack() as stack:
        progress("starting one server for all tasks, and one whose queue is in order")
        fair = stack.enter_context(corolla(found, *common, *alone, name="fair"))
        in_order = [sys.executable, "-m", "benchmarks.tenants.in_order"]
        unfair = stack.enter_context(corolla(found, *common, *alone, name="unfair", program=in_order))
        copies = []
        for number in range(len(dealt)):
            progress(f"starting the copy of group {number + 1} of {len(dealt)}")
            copies.append(stack.enter_context(corolla(found, *common, *each, name=f"copy-{number}")))
        grouped = {tenant.task: number for number, group in enumerate(dealt) for tenant in group}
        yield {
            SHARED: Variant(servers=[fair], place=dict.fromkeys(everybody, 0)),
            PARTITION: Variant(servers=copies, place=grouped, cores=threads),
            COPIES: Variant(servers=copies, place=grouped),
            UNFAIR: Variant(servers=[unfair], place=dict.fromkeys(everybody, 0)),
        }
