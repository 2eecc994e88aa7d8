"""What a token costs a server: the same small call to a server without principals and to one with.

    python -m benchmarks.access --quick

Two servers in processes of their own, asked in turns over plain text on this machine, one call at a time:
`ServerMetadata` of the Open Inference Protocol, which needs the scope `infer` and neither the store nor the
engine. `limited` is the second server asked by a principal with a limit of requests that it does not reach.

token_over_open, limited_over_open: CPU seconds of the server's process for a call, without principals over
with; 1 is a token that costs nothing. token_us, limited_us: what the call takes more, CPU microseconds.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import grpc
from rich.table import Table

from benchmarks.adapters import backbone
from benchmarks.estimate import Estimate
from benchmarks.interleave import Costs, costs, speed
from benchmarks.processes import Corolla, corolla
from benchmarks.report import emit, parser, progress, stop_on_terminate
from benchmarks.stores import Shelf, shelf
from serving.access import tokens
from serving.access.principals import Principal, Scope
from serving.access.principals_file import Principals

OPEN, TOKEN, LIMITED = "no principals", "token", "token, limited"
_METHOD = "/inference.GRPCInferenceService/ServerMetadata"
_LIMIT_PER_S = 1e6
_TIMEOUT_S = 60.0

Metadata = tuple[tuple[str, str], ...]


def principals(path: Path) -> dict[str, Metadata]:
    """Writes a file of two principals, and returns what each sends with a call."""
    found: list[Principal] = []
    shown: dict[str, Metadata] = {}
    for name, limit in ((TOKEN, None), (LIMITED, _LIMIT_PER_S)):
        text, stored = tokens.issue(created=datetime.now(UTC))
        principal = Principal(
            name=f"bench-{len(found)}", scopes=(Scope.INFER,), requests_per_s=limit, tokens=(stored,)
        )
        found.append(principal)
        shown[name] = (("authorization", f"Bearer {text}"),)
    Principals(principals=tuple(found)).write(path)
    return shown


def calling(server: Corolla, channel: grpc.Channel, metadata: Metadata, calls: int) -> Callable[[], float]:
    """A phase of so many calls, which returns the server's CPU seconds for one."""
    ask: Callable[..., bytes] = channel.unary_unary(_METHOD)

    def phase() -> float:
        before = server.tree.cpu_seconds()
        for _ in range(calls):
            ask(b"", metadata=metadata, timeout=_TIMEOUT_S)
        return (server.tree.cpu_seconds() - before) / calls

    return phase


def measure(found: Shelf, *, calls: int, rounds: int) -> Costs:
    """CPU seconds of the server for a call, by who calls."""
    path = found.folder / "principals.json"
    shown = principals(path)
    with (
        corolla(found, "--threads", "1", name="open") as opened,
        corolla(found, "--threads", "1", "--principals", str(path), name="closed") as closed,
        grpc.insecure_channel(opened.address) as to_opened,
        grpc.insecure_channel(closed.address) as to_closed,
    ):
        variants = {OPEN: calling(opened, to_opened, (), calls)}
        for name, metadata in shown.items():
            variants[name] = calling(closed, to_closed, metadata, calls)
        return costs(variants, rounds=rounds, warmup=1, progress=progress)


def more_us(taken: Costs, variant: str) -> Estimate:
    """CPU microseconds that a call takes more than without principals, over paired rounds."""
    pairs = zip(taken[variant], taken[OPEN], strict=True)
    return Estimate.of([1e6 * (ours - base) for ours, base in pairs])


def main(given: Sequence[str] | None = None) -> None:
    flags = parser(__doc__ or "")
    flags.add_argument("--architecture", default="vit_tiny_patch16_224")
    flags.add_argument("--image-size", type=int, default=32)
    flags.add_argument("--calls", type=int, default=200, help="of one phase")
    flags.add_argument("--rounds", type=int)
    asked = flags.parse_args(given)
    rounds = asked.rounds or (40 if asked.quick else 200)
    vit, _ = backbone(asked.architecture, asked.image_size)
    with shelf(vit, ["lora"], 1) as found:
        taken = measure(found, calls=asked.calls, rounds=rounds)
    table = Table("who calls", "CPU us a call", "more us", "speed / no principals")
    for name, seconds in taken.items():
        each = Estimate.of([1e6 * one for one in seconds])
        table.add_row(name, f"{each.value:.0f}", str(more_us(taken, name)), str(speed(taken, name, OPEN)))
    emit(
        "access",
        [table],
        {
            "quick": asked.quick,
            "calls": asked.calls,
            "rounds": rounds,
            "open_us": Estimate.of([1e6 * one for one in taken[OPEN]]),
            "token_us": more_us(taken, TOKEN),
            "limited_us": more_us(taken, LIMITED),
            "token_over_open": speed(taken, TOKEN, OPEN),
            "limited_over_open": speed(taken, LIMITED, OPEN),
        },
        packages=("grpcio",),
    )


if __name__ == "__main__":
    stop_on_terminate()
    main()
