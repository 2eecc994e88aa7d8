"""The images on which models disagree most, as thumbnails with what each model said.

Shapes: n images, K models, C classes.
"""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import entropy

from training.data.records import Dataset
from training.study.report.contents import Data, Gallery, Thumbnail
from training.study.report.words import counted, listed

MOST: Final = 12
"""Thumbnails of the first set; of each further one half as many."""
_SIDE = 176  # pixels at most
_QUALITY = 78


@dataclass(frozen=True, kw_only=True, eq=False)
class Voted:
    """What single models say of the images of one set.

    Attributes:
        on: The set's name.
        dataset: With labels that index the classes of the votes.
        votes: [n, K].
    """

    on: str
    dataset: Dataset
    votes: NDArray[np.int64]


def most_disputed(sets: Sequence[Voted], models: Sequence[str], classes: Sequence[str]) -> Gallery | str:
    """The gallery, or why there is none.

    Args:
        models: [K], names for people.
    """
    if len(models) < 2:
        return "One model alone disputes nothing: this needs two or more."
    chosen = []
    for place, one in enumerate(sets):
        entropies = vote_entropy(one.votes, len(classes))
        order = np.argsort(-entropies, kind="stable")[: MOST if place == 0 else MOST // 2]
        chosen += [(one, int(index), float(entropies[index])) for index in order if entropies[index] > 0]
    if not chosen:
        return "All models agree on every image."
    return Gallery(
        title="What models do not agree on",
        caption=f"The images with the highest entropy of the votes of {counted(len(models), 'model')}, in "
        "each set. In bold is the true class; under each image every answer with the models that gave it.",
        images=tuple(_thumbnail(one, index, bits, models, classes) for one, index, bits in chosen),
        data=_data(chosen, models, classes),
    )


def vote_entropy(votes: NDArray[np.int64], classes: int) -> NDArray[np.float64]:
    """[n], in bits, of how the votes [n, K] are spread over the classes: 0 where all agree."""
    spread = np.stack([np.bincount(row, minlength=classes) for row in votes])
    bits: NDArray[np.float64] = entropy(spread, axis=1, base=2)
    return bits


def _thumbnail(
    one: Voted, index: int, bits: float, models: Sequence[str], classes: Sequence[str]
) -> Thumbnail:
    said: dict[str, list[str]] = {}
    for model, vote in zip(models, one.votes[index], strict=True):
        said.setdefault(classes[vote], []).append(model)
    votes = sorted(said.items(), key=lambda pair: -len(pair[1]))
    truth = classes[int(one.dataset.labels[index])]
    source, width, height = _jpeg(one.dataset, index)
    words = "; ".join(f"{name} say {listed(who)}" for name, who in votes)
    return Thumbnail(
        source=source,
        width=width,
        height=height,
        alt=f"Image {index} of {one.on}, truly {truth}. {words}.",
        truth=truth,
        domain=one.on,
        entropy=bits,
        votes=tuple((name, len(who), listed(who)) for name, who in votes),
    )


def _jpeg(dataset: Dataset, index: int) -> tuple[str, int, int]:
    """A small copy of an image as a data URI, with its width and height."""
    image = Image.fromarray(dataset.images[index].permute(1, 2, 0).numpy())
    image.thumbnail((_SIDE, _SIDE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode(), *image.size


def _data(chosen: Sequence[tuple[Voted, int, float]], models: Sequence[str], classes: Sequence[str]) -> Data:
    rows = []
    for one, index, bits in chosen:
        truth = classes[int(one.dataset.labels[index])]
        said = [classes[vote] for vote in one.votes[index]]
        rows.append((one.on, index, one.dataset.fingerprints[index], truth, bits, *said))
    return Data(
        name="disputed",
        columns=("set", "image", "fingerprint", "truth", "entropy_bits", *models),
        rows=tuple(rows),
    )
