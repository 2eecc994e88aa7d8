"""Questions over HTTP."""

import pytest
from prometheus_client import CollectorRegistry

from petl_vit.errors import InvalidInput
from serving.metrics.port import MetricsPort
from serving.monitor import http


def test_no_proxy_is_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    port = MetricsPort(CollectorRegistry(), port=0)
    try:
        assert http.read(f"http://127.0.0.1:{port.port}/healthz", headers={}) == b"ok\n"
    finally:
        port.close()


@pytest.mark.parametrize("text", ["", "ftp://x:1", "http://", "x:port", "http://x:0"])
def test_what_is_not_a_url_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not a URL"):
        http.base_url(text, "address")


def test_a_password_is_not_shown() -> None:
    assert http.shown("http://ann:secret@[::1]:9090/x?y=1") == "http://[::1]:9090/x"
