"""The real Prometheus: its programs, and one that scrapes servers of a test."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import pytest

from tests.waiting import WAIT_S, until

FETCHED = Path(__file__).parent.parent / ".venv" / "prometheus"
_POLL_S = 0.5  # what it scrapes is this process, which has other things to do than to ask


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`; skips the test where there is none."""
    found = shutil.which(name) or shutil.which(name, path=FETCHED)
    if found is None:
        pytest.skip(
            f"{name} is not installed, and .ci/prometheus, which `make test` runs, could not fetch it"
        )
    return found


class Prometheus:
    """Scrapes servers on this machine, evaluates rules, and answers queries.

    Args:
        ports: The metrics ports of the servers.
        folder: For its configuration and its data.
        monitors: The metrics ports of evaluators.
        rules: Files of rules.
        interval: Between two scrapes, which may not take longer, and between two evaluations of the rules.
        scrape: Further settings of every scrape, such as `scheme` and `tls_config`.
    """

    def __init__(
        self,
        ports: Sequence[int],
        folder: Path,
        *,
        monitors: Sequence[int] = (),
        rules: Sequence[Path] = (),
        interval: str = "500ms",
        scrape: Mapping[str, object] | None = None,
    ) -> None:
        config = folder / "prometheus.yml"
        jobs = {"corolla": ports, "corolla-monitor": monitors}
        # YAML is a superset of JSON.
        config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": interval, "evaluation_interval": interval},
                    "rule_files": [str(file) for file in rules],
                    "scrape_configs": [
                        {
                            "job_name": job,
                            "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in targets]}],
                            **(scrape or {}),
                        }
                        for job, targets in jobs.items()
                    ],
                }
            )
        )
        self._targets, self._log = len(ports) + len(monitors), folder / "log"
        self._moment: float | None = None
        self._stopped = False
        self._command = [
            tool("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
        ]

    @property
    def url(self) -> str:
        """Where its HTTP API is."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Starts it, or after `stop` again with its data and at its address, and waits until it scrapes."""
        began = time.time()
        # On a busy machine the last scrape of one target or another has always taken too long.
        scraped = f"max_over_time(up[1m]) == 1 and timestamp(up) > {began}"
        try:
            until(self._started)
            until(lambda: len(self.query(scraped)) == self._targets, every_s=_POLL_S)
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends its process; its data stays."""
        self._process.terminate()
        self._process.wait(WAIT_S)
        self._stopped = True

    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of every series that an instant query returns.

        Raises:
            AssertionError: Prometheus refuses the query; says why.
        """
        asked = {"query": promql} | ({} if self._moment is None else {"time": str(self._moment)})
        try:
            answer = self._read("/api/v1/query?" + urlencode(asked))
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{json.load(error)['error']}\n{promql}") from error
        return [(found["metric"], float(found["value"][1])) for found in answer["data"]["result"]]

    def alerts(self) -> list[dict[str, str]]:
        """The labels of the alerts that are firing now, as Prometheus would send them; frozen or not."""
        found = self._read("/api/v1/alerts")["data"]["alerts"]
        return [alert["labels"] for alert in found if alert["state"] == "firing"]

    def freeze(self, true: Callable[[], bool]) -> None:
        """Evaluates all queries from now on as of one moment at which something is true.

        On a busy machine a scrape may take too long. Then its target has no series until the next one, and
        rules record nothing of it: hence a moment before which all scrapes succeeded.
        """

        def frozen() -> bool:
            self._moment, moment = None, time.time()
            # Then no scrape that began before the moment is still to come.
            until(
                lambda: all(scraped > moment for _, scraped in self.query("timestamp(up)")), every_s=_POLL_S
            )
            self._moment = moment
            return len(self.query("min_over_time(up[2s]) == 1")) == self._targets and true()

        until(frozen, every_s=_POLL_S)

    def _started(self) -> bool:
        """Whether it is ready; starts it, and starts it again where another process took its port."""
        if not hasattr(self, "_process") or self._process.poll() is not None:
            if not self._stopped:
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    self._port = free.getsockname()[1]
            self._stopped = False
            address = f"--web.listen-address=127.0.0.1:{self._port}"
            with self._log.open("wb") as log:
                self._process = subprocess.Popen([*self._command, address], stdout=log, stderr=log)
        try:
            self._read("/api/v1/status/buildinfo")
        except OSError:
            return False
        return True

    def _read(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=WAIT_S) as answer:
            return json.load(answer)
