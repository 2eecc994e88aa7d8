from typing import Any

import numpy as np
import pytest

from petl_vit.errors import InvalidInput
from serving.client.messages import request_of, stream_request_of


def test_a_tensor_of_another_dtype_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidInput, match="send uint8 or float32"):
        request_of(route="lora", tensor=np.zeros((1, 2, 2, 3)))


@pytest.mark.parametrize("images", [b"\xff\xd8\xff", "cat.jpg", ["cat.jpg"], [None]])
def test_what_is_not_a_list_of_bytes_is_refused_before_it_is_sent(images: Any) -> None:
    with pytest.raises(InvalidInput, match="images are not a list of bytes"):
        request_of(images, route="lora")


def test_ids_are_as_many_as_images() -> None:
    with pytest.raises(InvalidInput, match="1 ids for 2 images"):
        request_of([b"a", b"b"], route="lora", ids=["a"])


def test_images_may_come_from_any_iterable() -> None:
    request = request_of((data for data in (b"a", b"b")), route="lora", ids=["1", "2"])

    assert [(image.data, image.id) for image in request.images] == [(b"a", "1"), (b"b", "2")]


def test_the_id_of_a_request_in_a_stream_is_text() -> None:
    with pytest.raises(InvalidInput, match=r"requests: 1 is not text; use str ids"):
        stream_request_of((1, request_of([b"x"], route="lora")))
