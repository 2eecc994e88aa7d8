"""Pages that whoever opens the port adds."""

import gzip
import http.client
import logging
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from serving.metrics.port import Answer, MetricsPort
from tests.waiting import WAIT_S


def broken() -> Answer:
    raise RuntimeError("a fault")


@pytest.fixture(scope="module")
def number() -> Iterator[int]:
    pages = {"/": lambda: Answer(headers=(("Content-Type", "text/html"),), body=b"<p>hello"), "/bad": broken}
    port = MetricsPort(CollectorRegistry(), port=0, pages=pages)
    yield port.port
    port.close()


def ask(
    number: int, path: str, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", number, timeout=WAIT_S)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    return answer, said


@pytest.mark.parametrize("path", ["/", "", "//", "/?x=1"])
def test_a_page_may_be_at_the_root(number: int, path: str) -> None:
    answer, said = ask(number, path)
    assert (answer.status, answer.headers["Content-Type"], said) == (200, "text/html", b"<p>hello")
    assert answer.headers["Cache-Control"] == "no-store"


def test_it_is_packed_for_those_who_take_that_and_head_has_no_body(number: int) -> None:
    answer, said = ask(number, "/", **{"Accept-Encoding": "gzip"})
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(said) == b"<p>hello"
    assert ask(number, "/", "HEAD")[1] == b""


def test_a_page_that_fails_is_told_in_its_answer_and_in_the_log(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        answer, said = ask(number, "/bad")
    assert answer.status == 500
    assert b"the log has the traceback" in said
    assert "/bad could not be written" in caplog.text
    assert ask(number, "/")[0].status == 200


def test_other_paths_are_not_found_and_name_these_too(number: int) -> None:
    answer, said = ask(number, "/nothing")
    assert answer.status == 404
    assert b"/readyz, /, /bad" in said
