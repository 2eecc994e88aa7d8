"""A resident: an adapter in memory, as people see it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Resident:
    """An adapter in memory.

    Attributes:
        names: Every `task/name:version` that it was asked for by.
        registered_bytes: Host memory.
        slot_bytes: Device memory; on a CPU the same bytes.
        rows_in_use: Requests that use it now.
        last_used_at: Seconds since the epoch.
        exact: Whether it is served in fp32 because bf16 changes its answers too much.
        bf16_difference: How far bf16 moves its logits, relative to the largest; None where nobody compared.
    """

    digest: str
    names: tuple[str, ...]
    method: str
    registered_bytes: int
    in_slot: bool
    slot_bytes: int
    pinned: bool
    rows_in_use: int
    last_used_at: float
    exact: bool = False
    bf16_difference: float | None = None
