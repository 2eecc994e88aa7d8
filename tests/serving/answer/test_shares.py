"""Shares of all images, chosen by their content."""

import numpy as np

from serving.answer.shares import place_of


def test_a_share_is_chosen_by_an_images_content_alone_and_a_larger_one_has_it_too() -> None:
    places = np.array([place_of(str(i).encode()) for i in range(4000)])
    assert 0.04 < (places < 0.05).mean() < 0.06
    assert (places == [place_of(str(i).encode()) for i in range(4000)]).all()


def test_every_image_is_in_the_share_of_all_and_none_in_the_share_of_none() -> None:
    for image in (b"", b"\xff" * 100, np.zeros((2, 2, 3), np.uint8), np.ones((3, 2, 2), np.float32)):
        assert 0 <= place_of(image) < 1
