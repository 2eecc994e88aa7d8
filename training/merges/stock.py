"""Model Stock: how far to go from the frozen weights to the average, from the angle between members.

t = N cos / (1 + (N - 1) cos), for each parameter by itself (arXiv 2403.19522).
"""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor


def model_stock(changes: Sequence[Tensor]) -> Tensor:
    """t times the mean of the changes.

    cos is the mean over all pairs of members that change the parameter, and N their number. t is kept in
    [0, 1]: below a cosine of 0 the paper has no case. One member alone has no angle: t is 1.
    """
    mean = torch.stack(list(changes)).mean(dim=0)
    changing = [change.flatten() for change in changes if bool(change.any())]
    return mean * share(changing)


def share(changes: Sequence[Tensor]) -> float:
    """t, of changes [P] none of which is zero."""
    count = len(changes)
    if count < 2:
        return 1.0
    units = [change / change.norm() for change in changes]
    cosines = [float(one @ other) for one, other in combinations(units, 2)]
    cosine = sum(cosines) / len(cosines)
    return 0.0 if cosine <= 0 else min(1.0, count * cosine / (1 + (count - 1) * cosine))
