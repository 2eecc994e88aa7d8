"""The log: its forms, and the ids by which its lines and the answers to requests find each other."""

import io
import logging
from contextvars import copy_context
from typing import Any

import grpc
import pytest

from protos.corolla.v1.classifier_pb2_grpc import ClassifierStub
from serving import logs
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from tests.serving.logged import lines
from tests.serving.world import WAIT_S, Running, encoded, until


def called(client: Client, request_id: str | None, route: str = "lora") -> tuple[Any, str]:
    """A call with an id, and the id that its end names."""
    sent = () if request_id is None else (("x-request-id", request_id),)
    request = request_of([encoded(0)], route=route, task="shapes")
    call = ClassifierStub(client.channel).Classify.future(request, timeout=WAIT_S, metadata=sent)
    code = call.code()
    return code, dict(call.trailing_metadata())["x-request-id"]


def test_a_call_is_logged_under_the_id_that_its_client_sent_and_its_answer_names_it(
    running: Running, written: io.StringIO
) -> None:
    with running.client() as client:
        assert called(client, "order-17/3") == (grpc.StatusCode.OK, "order-17/3")
        assert called(client, "order-18", route="lroa") == (grpc.StatusCode.NOT_FOUND, "order-18")

        with pytest.raises(RequestFailed) as caught:
            client.classify([encoded(0)], route="lroa", task="shapes")

    until(lambda: len(lines(written)) == 3)
    assert caught.value.request_id == lines(written)[2]["request_id"]
    good, bad, _ = lines(written)
    assert (good["request_id"], good["method"], good["code"]) == ("order-17/3", "Classify", "OK")
    assert (good["level"], good["logger"]) == ("INFO", "corolla.calls")
    assert good["time"].endswith("+00:00")
    assert good["seconds"] > 0
    assert (bad["request_id"], bad["code"], bad["level"]) == ("order-18", "NOT_FOUND", "WARNING")
    assert "trace_id" not in good


@pytest.mark.parametrize("sent", [None, "with spaces", "x" * 129])
def test_a_call_without_a_fit_id_gets_one(running: Running, written: io.StringIO, sent: str | None) -> None:
    with running.client() as client:
        code, name = called(client, sent)

    until(lambda: len(lines(written)) == 1)
    assert code == grpc.StatusCode.OK
    assert len(name) == 32
    assert lines(written)[0]["request_id"] == name


def test_an_unexpected_error_is_logged_with_its_traceback_under_the_id_of_its_request(
    running: Running, written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(running.server.service.classifier, "count", fail)
    with running.client() as client:
        assert called(client, "order-19") == (grpc.StatusCode.INTERNAL, "order-19")

    until(lambda: len(lines(written)) == 2)
    incident = lines(written)[0]
    assert (incident["level"], incident["request_id"]) == ("ERROR", "order-19")
    assert "ZeroDivisionError" in incident["exception"]


def test_text_names_the_request_after_the_line_and_calls_are_told_only_when_asked_for() -> None:
    stream = io.StringIO()
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    for handler in handlers:
        root.removeHandler(handler)
    try:
        logs.set_up("text", "failed", stream)

        def about_a_request() -> None:
            logs.begin("order-20")
            logging.getLogger("x").warning("something")
            logs.call_ended("Classify", "OK", 0.1)
            logs.call_ended("Classify", "NOT_FOUND", 0.1)

        copy_context().run(about_a_request)
        logging.getLogger("x").info("of no request")
    finally:
        logs.set_up("text", "off")
        logging.captureWarnings(False)
        for handler in list(root.handlers):
            root.removeHandler(handler)
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(logging.WARNING)

    said = [line.partition(" WARNING ")[2] for line in stream.getvalue().splitlines()[:2]]
    assert said == ["something [request order-20]", "Classify: NOT_FOUND in 100.0 ms [request order-20]"]
    assert stream.getvalue().splitlines()[2].endswith("INFO of no request")
