import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.training.study.report.pictures import CLASSES, VOTES, gallery, voted
from training.study.report.disputed import most_disputed, vote_entropy


def test_votes_that_are_spread_evenly_have_the_highest_entropy() -> None:
    bits = vote_entropy(np.array(VOTES), len(CLASSES))
    assert bits == pytest.approx([0, 0.9183, np.log2(3), 0], abs=1e-4)


def test_the_most_disputed_image_comes_first_with_what_each_model_said() -> None:
    first, second = gallery().images
    assert (first.truth, first.domain) == ("cow", "photo")
    assert first.votes == (("cow", 1, "lora:1"), ("dog", 1, "ssf:1"), ("cat", 1, "bitfit:1"))
    assert second.votes[0] == ("dog", 2, "ssf:1 and bitfit:1")
    assert second.alt == "Image 1 of photo, truly dog. dog say ssf:1 and bitfit:1; cat say lora:1."
    columns, row = gallery().data.columns, gallery().data.rows[0]
    assert dict(zip(columns, row, strict=True))["ssf:1"] == "dog"


def test_thumbnails_are_small_jpegs_of_the_image() -> None:
    first = gallery().images[0]
    head, _, data = first.source.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (first.width, first.height) == (40, 30)
        assert abs(np.asarray(image).mean() - 120) < 2
    assert len(data) < 2000


def test_models_that_agree_and_a_single_one_dispute_nothing() -> None:
    models = ["lora:1", "ssf:1", "bitfit:1"]
    assert most_disputed([voted([[0, 0, 0]] * 4)], models, CLASSES) == "All models agree on every image."
    assert "two or more" in str(most_disputed([voted([[0]] * 4)], models[:1], CLASSES))
