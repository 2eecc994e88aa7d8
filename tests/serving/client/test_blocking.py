import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.client.admin import AdminClient
from serving.client.asynchronous import AsyncClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, embed_request_of, request_of
from tests.serving.world import DEADLINE_S, WAIT_S, Running, encoded

ROOT = Path(__file__).parents[3]


def arguments(function: Any) -> dict[str, inspect.Parameter]:
    """Its parameters without `self`."""
    return {name: p for name, p in inspect.signature(function).parameters.items() if name != "self"}


def test_it_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'timm', 'pydantic']));"
        "import serving.client.admin, serving.client.asynchronous, serving.client.health"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with Client("127.0.0.1:1", timeout_s=WAIT_S) as client:
        assert not client.serving()
        with pytest.raises(RequestFailed) as caught:
            client.classify([b""], route="lora")
    assert caught.value.code == "UNAVAILABLE"


def test_a_call_may_have_a_deadline_of_its_own(running: Running) -> None:
    release = running.hold_engine()
    try:
        with running.client() as client, pytest.raises(RequestFailed) as caught:
            client.classify([encoded(1)], route="lora", task="shapes", timeout_s=DEADLINE_S)
    finally:
        release.set()
    assert caught.value.code == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("name", ["classify", "send", "stream", "embed", "feedback", "call", "serving"])
def test_both_clients_take_the_same_arguments(name: str) -> None:
    blocking, asynchronous = arguments(getattr(Client, name)), arguments(getattr(AsyncClient, name))

    assert [(p.name, p.default) for p in blocking.values()] == [
        (p.name, p.default) for p in asynchronous.values()
    ]


@pytest.mark.parametrize(("method", "build"), [("classify", request_of), ("embed", embed_request_of)])
def test_a_request_for_a_stream_takes_what_the_call_takes_but_a_deadline(method: str, build: Any) -> None:
    call = arguments(getattr(Client, method))

    assert call.pop("timeout_s").default is None
    assert call == arguments(build)
    for name in set(call) - {"images"}:
        assert call[name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("of", [Client, AsyncClient, AdminClient])
def test_every_method_names_its_arguments_and_says_what_it_does(of: type) -> None:
    for name, method in vars(of).items():
        if inspect.isfunction(method) and not name.startswith("_"):
            assert inspect.getdoc(method), name
            assert {p.kind for p in arguments(method).values()} <= {
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                inspect.Parameter.KEYWORD_ONLY,
            }, name
            assert "timeout_s" in arguments(method) or name == "close", name
