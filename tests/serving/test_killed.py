"""A server that is killed where it hurts most: its labels are kept, and are not shown yet."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from corolla import command
from serving.client.blocking import Client
from serving.client.labels import status_name
from serving.client.messages import RequestFailed
from tests.serving.feedback.parts import rows
from tests.serving.feedback.recount import recounted, shown
from tests.serving.metrics.counting import counts
from tests.serving.world import WAIT_S, Running, World, encoded

SERVE = """
import os, signal, sys
from corolla import command
from serving.metrics.events import Metrics

Metrics.add = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(command.run(["serve", *sys.argv[1:]]))
"""


def test_a_server_killed_between_keeping_labels_and_counting_them_counts_each_once_after_its_restart(
    world: World, tmp_path: Path
) -> None:
    here = {"labels": str(tmp_path / "labels.db"), "replica": "replica-0", "label_share": 1.0}
    flags = f"--device cpu --threads 1 --precision fp32 --port 0 --metrics-port 0 --store {world.folder} "
    flags += f"--prediction-key-file {tmp_path}/key --labels {tmp_path}/labels.db --replica replica-0 "
    child = subprocess.Popen(
        [sys.executable, "-c", SERVE, *flags.split(), "--label-share", "1"],
        cwd=Path(command.__file__).parent.parent,
        env={name: value for name, value in os.environ.items() if not name.startswith("COROLLA_")},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with child:
        assert child.stdout is not None
        ready = re.search(r"gRPC (\S+), metrics", child.stdout.readline())
        assert ready is not None
        with Client(ready[1], timeout_s=WAIT_S) as client:
            results = client.classify([*map(encoded, range(12))], route="best", task="shapes").results
            labels = [(result.prediction_id, "star") for result in results]
            with pytest.raises(RequestFailed):
                client.feedback(labels[:6])
        assert child.wait(WAIT_S) == -9

    assert all(result.label_request.inclusion_probability == 1 for result in results)
    settings = world.settings(prediction_key_file=str(tmp_path / "key"), **here)
    with Running(settings) as running, running.client() as client:
        registry = running.server.service.metrics.registry
        assert shown(registry.collect()) == pytest.approx(recounted(rows(here["labels"])))
        assert running.value("corolla_feedback_delay_seconds_count", route="shapes/best") == 6
        answered = client.feedback(labels).results
        submitted = counts(
            running.server.service.metrics,
            "corolla_feedback_submissions_total",
            "status",
            route="shapes/best",
        )
        kept = shown(registry.collect())

    assert [status_name(result) for result in answered] == ["duplicate"] * 6 + ["matched"] * 6
    assert {status: n for status, n in submitted.items() if n} == Counter(matched=12, duplicate=6)
    assert kept == pytest.approx(recounted(rows(here["labels"])))
    moments = {dict(labels)["moment"] for name, labels in kept if name == "corolla_feedback_moment_total"}
    assert {"w", "w2", "w2_square"} <= moments
