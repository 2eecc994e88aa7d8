"""What a merge is asked to do: its kind and that kind's settings. No torch."""

from dataclasses import dataclass
from math import isfinite
from typing import Final, Literal, Self, cast, get_args

from petl_vit.errors import InvalidInput

Kind = Literal["ties", "dare", "tsv", "model-stock"]
KINDS: Final[tuple[str, ...]] = get_args(Kind)
DENSITY: Final = 0.2
DROP_RATE: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How members are merged.

    Attributes:
        density: ties: share of each member's changes that is kept, the largest.
        drop_rate: Share of the changes that is dropped at random before all else; 0 drops none.
        seed: Decides which.
        rank: Largest rank of the result at each linear; None keeps it as it comes out.
    """

    kind: Kind
    density: float = 1.0
    drop_rate: float = 0.0
    seed: int = 0
    rank: int | None = None

    @classmethod
    def of(
        cls,
        kind: str,
        *,
        density: float | None = None,
        drop_rate: float | None = None,
        seed: int | None = None,
        rank: int | None = None,
    ) -> Self:
        """The recipe of a user's values, None where nothing was said.

        Raises:
            InvalidInput: A value is out of range, or of another kind.
        """
        _check_kind("density", density, kind, ("ties",))
        _check_kind("drop_rate", drop_rate, kind, ("dare", "ties"))
        _check_kind("rank", rank, kind, KINDS)
        if drop_rate is None:
            drop_rate = DROP_RATE if kind == "dare" else 0.0
        if seed is not None and not drop_rate:
            raise InvalidInput(
                f"{kind} draws no random numbers", field="seed", remedy="leave it out, or give a drop rate"
            )
        density = density if density is not None else DENSITY if kind == "ties" else 1.0
        _check_values(density, drop_rate, seed or 0, rank)
        return cls(kind=cast("Kind", kind), density=density, drop_rate=drop_rate, seed=seed or 0, rank=rank)

    @property
    def settings(self) -> dict[str, float | int]:
        """What counts for this kind, as it is recorded."""
        return {
            **({"density": self.density} if self.kind == "ties" else {}),
            **({"drop_rate": self.drop_rate, "seed": self.seed} if self.drop_rate else {}),
            **({"rank": self.rank} if self.rank is not None else {}),
        }


def _check_kind(field: str, value: object, kind: str, kinds: tuple[str, ...]) -> None:
    if value is not None and kind not in kinds:
        raise InvalidInput(
            f"{kind} has no such setting", field=field, remedy=f"leave it out, or use {' or '.join(kinds)}"
        )


def _check_values(density: float, drop_rate: float, seed: int, rank: int | None) -> None:
    if not 0 < density <= 1:
        raise InvalidInput(
            f"{density} is no share of the changes", field="density", remedy="use one above 0 and up to 1"
        )
    if not (isfinite(drop_rate) and 0 <= drop_rate < 1):
        raise InvalidInput(
            f"{drop_rate} is no share to drop", field="drop_rate", remedy="use one from 0 to below 1"
        )
    if not 0 <= seed < 2**63:
        raise InvalidInput(f"{seed} is no seed", field="seed", remedy="use a whole number from 0")
    if rank is not None and rank < 1:
        raise InvalidInput(f"a rank of {rank} keeps nothing", field="rank", remedy="use 1 or more")
