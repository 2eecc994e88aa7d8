"""Who may ask a worker of TorchServe's: tokens of our principals in headers and fields; no Java."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.test_torchserve_handler import ROW, context
from tests.serving.access.callers import Callers, expired, secret_of
from tests.serving.world import World

pytest.importorskip("ts", reason="the extra `torchserve` is not installed")

from ts.context import Context, RequestProcessor
from ts.utils.util import PredictionException

from deploy.torchserve.handler import Handler

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


class Worker:
    """A worker over principals."""

    def __init__(self, world: World, folder: Path) -> None:
        self.callers = Callers(folder / "principals.json")
        self.callers.add("app", "infer", tasks=("shapes",))
        self.callers.add("ops", "admin")
        self.callers.add("old", "infer", token=expired())
        self.callers.add("slow", "infer", requests_per_s=0.01)
        self.context: Context = context(world, folder, principals=str(self.callers.write()))
        self.handler = Handler()
        self.handler.initialize(self.context)

    def bearer(self, name: str) -> str:
        return f"Bearer {self.callers.tokens[name]}"

    def ask(self, *asked: tuple[dict[str, Any], dict[str, Any]]) -> list[Any]:
        """The answers to pairs of fields and headers."""
        self.context.request_processor = [RequestProcessor(headers) for _, headers in asked]
        rows = [{**ROW, **fields} for fields, _ in asked]
        return [json.loads(answer) for answer in self.handler.handle(rows, self.context)]

    def refused(self, fields: dict[str, Any], headers: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with pytest.raises(PredictionException) as raised:
            self.ask((fields, headers))
        return raised.value.error_code, json.loads(raised.value.message)["error"]


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    folder = tmp_path_factory.mktemp("worker")
    worker = Worker(World.make(folder / "store"), folder)
    yield worker
    worker.handler.engine.close()


def test_a_token_is_taken_from_the_field_our_header_or_authorization(worker: Worker) -> None:
    shown, theirs = worker.bearer("app"), {"Authorization": "Bearer key-of-torchserve"}
    answers = worker.ask(
        ({}, {"Authorization": shown}),
        ({}, {"X-Corolla-Authorization": shown, **theirs}),
        ({"authorization": bytearray(shown.encode())}, {**theirs, "authorization": {"content-type": None}}),
    )

    assert [answer.get("route") for answer in answers] == ["lora:2"] * 3


@pytest.mark.parametrize(
    ("name", "status", "code", "said"),
    [
        (None, 401, "UNAUTHENTICATED", "shows no token; send `Bearer TOKEN` as the header x-corolla-auth"),
        (
            "theirs",
            401,
            "UNAUTHENTICATED",
            "does not have the form of one; send `Bearer TOKEN` as the header",
        ),
        ("unknown", 401, "UNAUTHENTICATED", "the token is not known here"),
        ("old", 401, "UNAUTHENTICATED", "the token has expired"),
        ("ops", 403, "PERMISSION_DENIED", "ops does not have the scope infer"),
    ],
)
def test_whoever_may_not_ask_is_refused_by_the_status_that_grpc_shows(
    worker: Worker, name: str | None, status: int, code: str, said: str
) -> None:
    others = {"theirs": "Bearer key-of-torchserve", "unknown": f"Bearer cor_aaaaaaaa_{'x' * 43}"}
    shown = None if name is None else others.get(name) or worker.bearer(name)
    error = worker.refused({}, {} if shown is None else {"Authorization": shown})

    assert (error[0], error[1]["code"]) == (status, code)
    assert said in error[1]["message"]
    assert shown is None or shown[20:] not in str(error)


def test_tasks_and_limits_of_a_principal_hold(worker: Worker) -> None:
    app, slow = {"Authorization": worker.bearer("app")}, {"Authorization": worker.bearer("slow")}

    assert worker.refused({"task": b"colours"}, app)[1]["code"] == "PERMISSION_DENIED"
    assert "route" in worker.ask(({}, slow))[0]
    assert worker.refused({}, slow)[0] == 429


def test_one_batch_has_callers_with_other_rights_and_a_bad_request_harms_no_other(worker: Worker) -> None:
    app, nobody = {"Authorization": worker.bearer("app")}, dict[str, Any]()
    good, foreign, unknown, bad = worker.ask(
        ({}, app), ({"task": b"colours"}, app), ({}, nobody), ({"rout": b"lora"}, app)
    )

    assert good["route"] == "lora:2"
    assert [answer["error"]["code"] for answer in (foreign, unknown, bad)] == [
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "INVALID_ARGUMENT",
    ]


def test_a_revoked_token_ends_with_the_next_batch(worker: Worker) -> None:
    text = worker.callers.add("gone", "infer")
    worker.callers.write()
    assert "route" in worker.ask(({}, {"Authorization": f"Bearer {text}"}))[0]

    worker.callers.change("gone", tokens=())
    assert worker.refused({}, {"Authorization": f"Bearer {text}"})[0] == 401


def test_refusals_and_callers_are_counted_and_no_token_is_logged(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    before = counted(worker, "corolla_principal_requests_total", principal="app", code="OK")
    worker.ask(({}, {"Authorization": worker.bearer("app")}))
    refused = counted(worker, "corolla_refused_calls_total", reason="unknown_token")
    worker.refused({}, {"Authorization": f"Bearer cor_aaaaaaaa_{'x' * 43}"})

    assert counted(worker, "corolla_principal_requests_total", principal="app", code="OK") == before + 1
    assert counted(worker, "corolla_refused_calls_total", reason="unknown_token") == refused + 1
    assert secret_of(worker.callers.tokens["app"]) not in caplog.text
    assert "x" * 43 not in caplog.text


def counted(worker: Worker, name: str, **labels: str) -> float:
    return worker.handler.engine.registry.get_sample_value(name, labels) or 0.0
