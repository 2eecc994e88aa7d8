"""Kills with SIGKILL, at random moments, and what is there after a restart.

    python -m benchmarks.kill --quick
    python -m benchmarks.kill --rounds 200 --seed 7 --operation delete --folder /tmp/killed

A round copies a small store, starts a process that writes to it again and again, kills that, and looks at
the folder in a new process: every record, digest and reference of the store is verified, every write that was
acknowledged before the kill must be there, and the work that was cut off must go on. Writers register
adapters, switch an alias, run a sweep, send labels to a server, make soups, delete versions and tasks, and
collect garbage. The moment is uniform over some writes: in half of the rounds by the clock, from another
process, and in the others (not for the server) by the writer itself at a Python call or return, so that short
steps are hit as often as long ones.

in_a_write: rounds whose kill fell between the begin of a write and its acknowledgement. lost: acknowledged
writes that are not there. broken: half adapters, dangling names, and what cannot go on. Both must be 0: else
the exit code is 1, and the folders of such rounds stay.
"""

import argparse
import random
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.table import Table

from benchmarks.kill.garbage import GARBAGE
from benchmarks.kill.labels import FEEDBACK
from benchmarks.kill.names import ALIAS, DELETE, REGISTER
from benchmarks.kill.operation import Found, Operation, acknowledged, cut_off
from benchmarks.kill.process import Moment, Span, checked, in_child, killed, measured, preload
from benchmarks.kill.training import SOUP, SWEEP
from benchmarks.report import Figures, emit, parser, progress, stop_on_terminate

OPERATIONS = (REGISTER, ALIAS, SWEEP, FEEDBACK, SOUP, DELETE, GARBAGE)
ROUNDS, QUICK_ROUNDS = 200, 14


@dataclass(kw_only=True)
class Tally:
    """What came of the rounds of one operation."""

    rounds: int = 0
    in_a_write: int = 0
    acknowledged: int = 0
    lost: int = 0
    broken: int = 0
    leftovers: Counter[str] = field(default_factory=Counter)

    def add(self, found: Found, acknowledged: int, in_a_write: bool) -> None:
        """One round."""
        self.rounds += 1
        self.in_a_write += in_a_write
        self.acknowledged += acknowledged
        self.lost += len(found.lost)
        self.broken += len(found.broken)
        self.leftovers += found.leftovers


class Killing:
    """Rounds in a folder.

    Args:
        seed: Decides all moments and writes.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._seed = folder, seed
        self._spans: dict[str, Span] = {}

    def round(self, operation: Operation, number: int) -> tuple[Found, int, bool]:
        """One kill: what was found, how many writes were acknowledged, and whether it fell into one."""
        template = self._folder / operation.name.replace(" ", "-")
        if operation.name not in self._spans:
            in_child(operation.prepare, template)
            probe = self._copy(template, "probe")
            self._spans[operation.name] = measured(operation, probe, self._seed)
            shutil.rmtree(probe)
        chance = random.Random(f"{self._seed} {operation.name} {number}")
        moment = self._moment(operation, number, chance)
        folder = self._copy(template, f"round-{number}")
        told = killed(operation, folder, chance.randrange(2**31), moment)
        found = checked(operation, folder, told)
        for problem in found.lost + found.broken:
            progress(f"round {number}, {operation.name} killed at {moment}, {folder}: {problem}")
        if not found.lost and not found.broken:
            shutil.rmtree(folder)
        return found, len(acknowledged(told)), cut_off(told) is not None

    def _moment(self, operation: Operation, number: int, chance: random.Random) -> Moment:
        span = self._spans[operation.name]
        if operation.drive is None and number % 2:
            return Moment(step=chance.randint(1, span.steps))
        return Moment(seconds=chance.uniform(0, span.seconds))

    def _copy(self, template: Path, name: str) -> Path:
        folder = template.with_name(f"{template.name}-{name}")
        shutil.copytree(template, folder)
        return folder


def table(tallies: dict[str, Tally]) -> Table:
    """A row for each operation."""
    made = Table("killed in", "kills", "in a write", "acknowledged", "lost", "broken", "leftovers")
    for name, tally in tallies.items():
        rests = ", ".join(f"{count} x {kind}" for kind, count in tally.leftovers.most_common())
        figures = (tally.rounds, tally.in_a_write, tally.acknowledged, tally.lost, tally.broken)
        made.add_row(name, *map(str, figures), rests or "none")
    return made


def figures(tallies: dict[str, Tally]) -> Figures:
    """The same for programs."""
    names = ("rounds", "in_a_write", "acknowledged", "lost", "broken")
    every = {name.replace(" ", "_"): tally for name, tally in tallies.items()}
    return {
        **{name: sum(getattr(tally, name) for tally in tallies.values()) for name in names},
        **{name: {one: getattr(tally, one) for one in names} for name, tally in every.items()},
    }


def run(operations: Sequence[Operation], rounds: int, folder: Path, seed: int) -> dict[str, Tally]:
    """So many rounds, the operations in turns; those until then where it is interrupted."""
    killing, tallies = Killing(folder, seed), {operation.name: Tally() for operation in operations}
    try:
        for number in range(rounds):
            operation = operations[number % len(operations)]
            found, writes, in_a_write = killing.round(operation, number // len(operations))
            tallies[operation.name].add(found, writes, in_a_write)
            if (number + 1) % 10 == 0:
                progress(f"{number + 1} of {rounds} rounds")
    except (KeyboardInterrupt, SystemExit):
        progress("interrupted: these are the rounds until now")
    return tallies


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    stop_on_terminate()
    preload(*sorted({module for module in sys.modules if module.startswith("benchmarks.kill.")}))
    chosen = [each for each in OPERATIONS if not given.operation or each.name in given.operation]
    rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
    with TemporaryDirectory(prefix="corolla-kill-", ignore_cleanup_errors=True) as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        tallies = run(chosen, rounds, folder, given.seed)
    emit("kill", [table(tallies)], figures(tallies))
    if any(tally.lost or tally.broken for tally in tallies.values()):
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, help=f"kills; default: {ROUNDS}, {QUICK_ROUNDS} with --quick")
    made.add_argument("--seed", type=int, default=0, help="of all moments; default: 0")
    made.add_argument(
        "--operation",
        action="append",
        choices=[operation.name for operation in OPERATIONS],
        help="kill this one only; may be repeated",
    )
    made.add_argument("--folder", type=Path, help="a new folder in which broken rounds stay")
    return made


if __name__ == "__main__":
    main()
