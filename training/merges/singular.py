"""Singular values of changes, and TSV-Merge: task singular vectors made orthogonal (arXiv 2412.00081).

Shapes: W outputs and in inputs of a linear, N members, K singular vectors.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_NOTHING = 1e-10
"""Singular values below this share of the largest are rounding."""


class Singular(NamedTuple):
    """u diag(s) v^T with u [W, K], s [K] descending and positive, v [in, K]."""

    u: Tensor
    s: Tensor
    v: Tensor

    def first(self, count: int) -> "Singular":
        """The largest so many."""
        return Singular(self.u[:, :count], self.s[:count], self.v[:, :count])

    def product(self) -> Tensor:
        """[W, in]."""
        return (self.u * self.s) @ self.v.T


def singular(matrix: Tensor) -> Singular:
    """The singular values and vectors of a matrix [W, in], but those of its null space."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((s > _NOTHING * s[0]).sum()) if len(s) else 0
    return Singular(u, s, vh.T).first(rank)


def tsv(changes: Sequence[Tensor]) -> Tensor:
    """The merged change of a linear's weight [W, in]; the mean of all other changes.

    Each member keeps its largest 1/N of the min(W, in) singular components. The kept u of all members, side
    by side, are replaced by the nearest orthonormal ones (the Procrustes solution: the polar factor), and so
    are the v. Where they are dependent, as those of equal members, the polar factor is the one that
    is zero on the null space.
    """
    if changes[0].dim() != 2:
        return torch.stack(list(changes)).mean(dim=0)
    kept = max(1, min(changes[0].shape) // len(changes))
    parts = [singular(change).first(kept) for change in changes]
    u, v = (_orthonormal(torch.cat(sides, dim=1)) for sides in ([p.u for p in parts], [p.v for p in parts]))
    return (u * torch.cat([part.s for part in parts])) @ v.T


def _orthonormal(vectors: Tensor) -> Tensor:
    """The orthonormal vectors nearest to the columns of [W, K]."""
    u, _, v = singular(vectors)
    return u @ v.T
