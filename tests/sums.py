"""Sums whose order depends on the number of rows, as on CPUs with AVX-512 and MKL: `pytest --sums-by-rows`.

Each product of matrices is summed in two parts, and the number of rows decides where the first one ends. The
same product gives the same bits again; a row among other rows differs in its last digits. What holds here
holds whatever kernel a library takes for a shape.

Shapes: M rows, K summed over, N columns, B batch.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

_NARROW = (torch.bfloat16, torch.float16)
"""Left alone: rounding what is between the parts would cost digits that no kernel loses."""


def install() -> torch.library.Library:
    """Replaces the products of dense matrices on CPUs in this process, for as long as the result is kept."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are replaced is the purpose
        for name, product in (("mm", _mm), ("addmm", _addmm), ("addmm_", _addmm_)):
            library.impl(name, product, "CPU")
        for name, product in (("bmm", _mm), ("baddbmm", _addmm), ("baddbmm_", _addmm_)):
            library.impl(name, product, "CPU")
    return library


def _mm(a: Tensor, b: Tensor) -> Tensor:
    out = a.new_empty(*a.shape[:-1], b.shape[-1])
    return _into(out, out, a, b, beta=0, alpha=1)


def _addmm(added: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _into(a.new_empty(*a.shape[:-1], b.shape[-1]), added, a, b, beta=beta, alpha=alpha)


def _addmm_(added: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    return _into(added, added, a, b, beta=beta, alpha=alpha)


def _into(out: Tensor, added: Tensor, a: Tensor, b: Tensor, *, beta: Any, alpha: Any) -> Tensor:
    """out = beta added + alpha a b, [M, N] or [B, M, N]. `added` may be `out`."""
    product = torch.addmm if a.dim() == 2 else torch.baddbmm
    rows, summed = a.shape[:-1].numel(), a.shape[-1]
    if summed < 2 or a.dtype in _NARROW:
        return product(added, a, b, beta=beta, alpha=alpha, out=out)
    first = 1 + 7919 * rows % (summed - 1)
    head, tail = (a[..., :first], b[..., :first, :]), (a[..., first:], b[..., first:, :])
    rest = torch.empty_like(out)  # on its own: a kernel may go on where the first part ended
    product(rest, *tail, beta=0, alpha=alpha, out=rest)
    return product(added, *head, beta=beta, alpha=alpha, out=out).add_(rest)
