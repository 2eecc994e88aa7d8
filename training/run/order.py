"""In which order an epoch shows its images: each once, or every class equally often.

Shapes: n images, C classes.
"""

import torch
from torch import Tensor

from training.run.recipe import Balance


def epoch_order(labels: Tensor, balance: Balance, generator: torch.Generator) -> Tensor:
    """Indices [n] of an epoch's images, decided by the generator alone.

    With `classes`, each class that has images is shown n / C times, rounded up for some at random: of a large
    class some images wait for another epoch, and those of a small class are shown equally often, give or
    take one.
    """
    if balance == "none":
        return torch.randperm(len(labels), generator=generator)
    members = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    share, rest = divmod(len(labels), len(members))
    more = set(torch.randperm(len(members), generator=generator)[:rest].tolist())
    shown = [
        _repeated(of_class, share + (place in more), generator) for place, of_class in enumerate(members)
    ]
    return torch.cat(shown)[torch.randperm(len(labels), generator=generator)]


def _repeated(members: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many of the members, none more than once oftener than another."""
    rounds = -(-count // len(members))
    shuffled = [members[torch.randperm(len(members), generator=generator)] for _ in range(rounds)]
    return torch.cat(shuffled)[:count] if shuffled else members[:0]
