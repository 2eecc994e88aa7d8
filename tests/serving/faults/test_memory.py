"""What a server says when the host has no memory for a call, and when a row of a batch is poisoned."""

import pytest
from torch import Tensor

from model_store.resolution.versions import ResolvedTerm
from petl_vit.adapter import Adapter
from serving.client.messages import RequestFailed
from tests.serving.overload.servers import QUEUED, Ours, ask, later, occupy, probabilities, same
from tests.serving.world import WAIT_S, Running, World, encoded, until

NO_MEMORY = [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")]


def test_an_adapter_for_which_the_host_has_no_memory_is_refused_and_loads_once_there_is_some(
    world: World,
) -> None:
    with Ours(world) as running, running.client() as client:
        expected, load = ask(client, "lora"), running.server.service.loader.adapter
        for error in NO_MEMORY:

            def fail(term: ResolvedTerm, error: Exception = error) -> Adapter:
                raise error

            running.server.service.loader.adapter = fail  # type: ignore[method-assign]
            with pytest.raises(RequestFailed, match="no memory is left for this call") as caught:
                ask(client, "ssf")
            assert caught.value.code == "RESOURCE_EXHAUSTED"
            same(ask(client, "lora"), expected)
        running.server.service.loader.adapter = load  # type: ignore[method-assign]
        assert ask(client, "ssf")


def test_a_row_that_computes_no_number_spoils_no_other_row_of_its_batch(own_world: World) -> None:
    def poison(tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            tensor *= 1e30

    own_world.publish("shapes", "ssf", seed=5, name="poisoned", change=poison)
    with Ours(own_world) as running, running.client() as client:
        expected = {route: ask(client, route) for route in ("lora", "bitfit", "best")}
        changed = running.change()
        release, first = occupy(running, client)
        calls = {route: later(client, route) for route in (*expected, "poisoned")}
        until(lambda: running.value(QUEUED) == 6)
        release.set()

        probabilities(first)
        for route, answer in expected.items():
            same(probabilities(calls[route]), answer)
        (result,) = calls["poisoned"].result(WAIT_S).results
        assert "gave scores that are not finite" in result.error.message
        assert max(changed.batches) == 6, "all of them were in one forward"


def test_an_image_that_cannot_be_decoded_fails_alone_in_its_request(running: Running) -> None:
    with running.client() as client:
        images = [encoded(0), encoded(1)[:60], encoded(2)]
        results = client.classify(images, route="lora", task="shapes").results
        assert [bool(result.error.message) for result in results] == [False, True, False]
