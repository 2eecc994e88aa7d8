"""Whether monitoring can be believed: streams of labelled images, replayed through what serves and watches.

python -m benchmarks.shifted --quick
python -m benchmarks.shifted --page docs/monitoring.md
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import parser
from benchmarks.shifted.members import Plan, trained
from benchmarks.shifted.subject import subject
from corolla.evaluation import Measurement
from training.progress import Bars


def main(given: Sequence[str] | None = None) -> None:
    asked = _flags().parse_args(given)
    reporter = Bars()
    found = trained(asked.folder, Plan(), reporter)
    what = Measurement(
        data=[found.heldout, "mnist"],
        task=found.task,
        routes=found.routes,
        shifts=asked.shift,
        limit=asked.limit,
        precision=asked.precision,
        logits=asked.folder / "logits",
    )
    got = subject(found.store, what, streamed=asked.streamed, reporter=reporter)
    for domain in [got.reference, got.unshifted, *got.shifted]:
        print(
            domain.name,
            len(domain),
            *[
                f"{(domain.of(one.route).mean(axis=1).argmax(-1) == domain.labels).mean():.3f}"
                + " "
                + " ".join(
                    f"{a:.2f}"
                    for a in (domain.of(one.route).argmax(-1) == domain.labels[:, None]).mean(axis=0)
                )
                for one in got.routes
            ],
        )


def _flags() -> argparse.ArgumentParser:
    flags = parser(__doc__ or "")
    flags.add_argument("--folder", type=Path, default=Path(".shifted"))
    flags.add_argument("--precision", default="auto")
    flags.add_argument("--limit", type=int)
    flags.add_argument("--streamed", type=float, default=0.3)
    flags.add_argument("--shift", action="append", default=[])
    return flags


if __name__ == "__main__":
    main()
