"""More images than a server takes in one request."""

from collections.abc import Iterator

import numpy as np
import pytest

from corolla.sending import classified
from serving.client.messages import RequestFailed
from tests.serving.world import Running, World, encoded


@pytest.fixture
def small(world: World) -> Iterator[Running]:
    """A server that takes three images in one request, and 20,000 bytes."""
    with Running(world.settings(max_images=3, max_message_bytes=20_000)) as running:
        yield running


def test_images_are_sent_in_as_many_requests_as_the_server_takes(small: Running) -> None:
    images = [(f"{i}.png", encoded(i)) for i in range(8)]
    with small.client() as client:
        response = classified(client, images, route="lora", task="shapes", top_k=1)
        alone = [client.classify([data], route="lora", task="shapes").results[0] for _, data in images]
        assert [result.id for result in response.results] == [name for name, _ in images]
        assert [result.top[0].class_index for result in response.results] == [
            one.top[0].class_index for one in alone
        ]
        assert (response.route, len(response.adapters)) == ("lora:2", 1)
        with pytest.raises(RequestFailed) as caught:
            classified(client, [("a", np.random.default_rng(0).bytes(30_000))], route="lora", task="shapes")
    assert " bytes in one message, at most 20,000 are taken; send fewer or smaller" in str(caught.value)


def test_an_image_that_is_too_large_by_itself_keeps_no_other_from_its_answer(small: Running) -> None:
    large = np.random.default_rng(0).bytes(30_000)
    images = [
        ("a", encoded(0)),
        ("large", large),
        ("b", encoded(1)),
        ("c", encoded(2)),
        ("larger", large * 2),
    ]
    with small.client() as client:
        response = classified(client, images, route="lora", task="shapes")
        found = {result.id: (bool(result.top), result.error.message) for result in response.results}
    assert [*found] == ["a", "large", "b", "c", "larger"]
    assert [name for name, (answered, _) in found.items() if not answered] == ["large", "larger"]
    assert "too large (30," in found["large"][1]
    assert "at most 20,000 are taken); scale it down" in found["large"][1]
    assert (response.route, response.task, len(response.adapters)) == ("lora:2", "shapes", 1)


def test_what_is_wrong_with_a_request_is_not_tried_again(small: Running) -> None:
    with small.client() as client, pytest.raises(RequestFailed, match="did you mean lora"):
        classified(client, [("a", encoded(0)), ("b", encoded(1))], route="lorra", task="shapes")
