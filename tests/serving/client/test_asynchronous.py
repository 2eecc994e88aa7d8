import pytest

from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.asynchronous import AsyncClient
from serving.client.messages import RequestFailed
from tests.serving.world import DEADLINE_S, Running, encoded


async def test_the_asynchronous_client_does_what_the_blocking_one_does(running: Running) -> None:
    async with AsyncClient(running.address) as client:
        response = await client.classify([encoded(1)], route="lora", task="shapes")
        labels = [(response.results[0].prediction_id, "star")]
        assert (await client.feedback(labels)).results[0].status == pb.FEEDBACK_STATUS_MATCHED
        with pytest.raises(RequestFailed) as caught:
            await client.classify([encoded(1)], route="lorra", task="shapes")

    assert response.route == "lora:2"
    assert (caught.value.code, caught.value.named_field) == ("NOT_FOUND", "adapter")
    assert "did you mean lora?" in str(caught.value)


async def test_it_says_whether_the_server_serves(running: Running) -> None:
    async with AsyncClient(running.address) as client:
        assert await client.serving()
    async with AsyncClient("127.0.0.1:1") as client:
        assert not await client.serving()


async def test_a_call_may_have_a_deadline_of_its_own(running: Running) -> None:
    release = running.hold_engine()
    try:
        async with AsyncClient(running.address) as client:
            with pytest.raises(RequestFailed) as caught:
                await client.classify([encoded(1)], route="lora", task="shapes", timeout_s=DEADLINE_S)
    finally:
        release.set()
    assert caught.value.code == "DEADLINE_EXCEEDED"
