import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from petl_vit.errors import CorollaError
from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.blocking import AsyncClient, Client, RequestFailed, main, request_of
from tests.serving.world import WAIT_S, Running, encoded

ROOT = Path(__file__).parents[3]


def test_it_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'timm', 'pydantic']));"
        "import serving.client.blocking, corolla.commands.classify"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


async def test_the_asynchronous_client_does_what_the_blocking_one_does(running: Running) -> None:
    async with AsyncClient(running.address) as client:
        response = await client.classify([encoded(1)], route="lora", task="shapes")
        labels = [(response.results[0].prediction_id, "star")]
        assert (await client.feedback(labels)).results[0].status == pb.FEEDBACK_STATUS_COUNTED
        with pytest.raises(RequestFailed) as caught:
            await client.classify([encoded(1)], route="lorra", task="shapes")

    assert response.route == "lora:2"
    assert (caught.value.code, caught.value.named_field) == ("NOT_FOUND", "adapter")
    assert "did you mean lora?" in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with Client("127.0.0.1:1", timeout_s=WAIT_S) as client:
        assert not client.serving()
        with pytest.raises(RequestFailed) as caught:
            client.classify([b""], route="lora")
    assert caught.value.code == "UNAVAILABLE"


def test_a_tensor_of_another_dtype_is_refused_before_it_is_sent() -> None:
    with pytest.raises(CorollaError, match="send uint8 or float32"):
        request_of(route="lora", tensor=np.zeros((1, 2, 2, 3)))


def test_the_health_command_exits_0_when_the_server_serves(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["health", running.address]) == 0
    assert main(["health", "127.0.0.1:1"]) == 1
    assert main(["healthy"]) == 2
    assert "usage" in capsys.readouterr().err
