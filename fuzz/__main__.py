"""Fuzzes the targets one after the other: `python -m fuzz [TARGET ...] [--seconds N]`.

What a run finds lies in `.fuzz/`, where the next run goes on; `--keep` adds to `fuzz/corpus/` the smallest of
what reaches new code. A crash is one file in `.fuzz/crashes/`; `python -m fuzz.target TARGET FILE` repeats it.
"""

import argparse
import importlib
import importlib.util
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
FOUND = HERE.parent / ".fuzz"
TARGETS = tuple(sorted(path.stem for path in (HERE / "targets").glob("*.py") if path.stem[0] not in "_w"))
_LIMITS = ("-timeout=20", "-rss_limit_mb=3000", "-max_len=4096", "-print_final_stats=1")
_LARGEST_KEPT, _MOST_KEPT = 1024, 48


def main() -> int:
    """0, or 1 where a target crashed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=10, help="of each target")
    parser.add_argument("--keep", action="store_true", help="keep what reaches new code in fuzz/corpus")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.targets) - set(TARGETS))
    if unknown:
        parser.error(f"{unknown[0]} is not a target; there is {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        print(
            "atheris is not installed: pip install 'corolla[fuzz]' (Linux, Python 3.11 to 3.13)",
            file=sys.stderr,
        )
        return 1
    return max([_run(name, chosen.seconds, keep=chosen.keep) for name in chosen.targets or TARGETS])


def _run(name: str, seconds: int, *, keep: bool) -> int:
    """Fuzzes one target, and says how many cases ran and what came of them."""
    work, crashes = FOUND / name, FOUND / "crashes" / name
    for folder in (work, crashes, CORPUS / name):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(importlib.import_module(f"fuzz.targets.{name}").seeds()):
        (work / f"seed-{number}").write_bytes(seed)
    command = [sys.executable, "-m", "fuzz.target", name]
    options = [*_LIMITS, f"-max_total_time={seconds}", f"-artifact_prefix={crashes}/"]
    before, started = set(crashes.iterdir()), time.monotonic()
    done = subprocess.run(
        [*command, *options, str(work), str(CORPUS / name)], capture_output=True, text=True, errors="replace"
    )
    cases = re.search(r"number_of_executed_units: *(\d+)", done.stderr)
    said = f"{name:14} {time.monotonic() - started:6.0f} s  {int(cases[1]) if cases else 0:>10,} cases"
    if done.returncode == 0:
        print(f"{said}  no crash", flush=True)
        if keep:
            _keep(work, CORPUS / name)
        return 0
    (FOUND / f"{name}.log").write_text(done.stdout + done.stderr)
    new = sorted(str(path.relative_to(HERE.parent)) for path in set(crashes.iterdir()) - before)
    print(f"{said}  CRASH: {', '.join(new) or 'no input kept'}; see .fuzz/{name}.log", flush=True)
    return 1


def _keep(work: Path, corpus: Path) -> None:
    """Copies the smallest of what reaches new code, so that the corpus of every target stays small."""
    small = sorted((path.stat().st_size, path.name) for path in work.iterdir() if path.name[:5] != "seed-")
    for size, name in small[:_MOST_KEPT]:
        if size <= _LARGEST_KEPT:
            (corpus / name).write_bytes((work / name).read_bytes())


if __name__ == "__main__":
    sys.exit(main())
