"""A Prometheus whose answers a test makes."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

from tests.serving.monitor.world import DOMAIN, ROUTE

NOW = 10_000.0
Answer = Callable[[str, Mapping[str, str]], Any]


@contextmanager
def api(answer: Answer) -> Iterator[str]:
    """A Prometheus that answers as it is told; the `data.result` of a query, or the whole document."""

    class Api(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            found = answer(form["query"], form | {"header": self.headers.get("X-Scope-OrgID", "")})
            document = {"status": "success", "data": {"result": found}} if isinstance(found, list) else found
            self.send_response(200 if document.get("status") == "success" else 422)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def series(value: float, name: str = "corolla_predictions_total", **labels: str) -> dict[str, Any]:
    metric = {"__name__": name, "job": "corolla", "instance": "one:9090", "route": ROUTE, "domain": DOMAIN}
    return {"metric": metric | labels, "value": [NOW, str(value)]}


def healthy(query: str, form: Mapping[str, str]) -> list[Any]:
    up = {"__name__": "up", "job": "corolla", "instance": "one:9090"}
    if query.startswith("up{"):
        return [{"metric": up, "value": [NOW, "1"]}]
    if query.startswith("timestamp("):
        return [{"metric": up, "value": [NOW, str(NOW - 10)]}]
    return [series(7)]
