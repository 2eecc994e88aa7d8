"""The server's replicas on a real Ray Serve, with two replicas on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.serve", reason="the extra `ray` is not installed")

from benchmarks.ray_cluster import cannot_isolate, isolated
from deploy.ray import lost
from tests.deploy.ray.session import CALLERS
from tests.nginx import MISSING, program
from tests.serving.world import WAIT_S

ROOT = Path(__file__).parents[3]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cannot_isolate() is not None, reason=f"needs a network namespace: {cannot_isolate()}"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the session saw; see there."""
    folder = tmp_path_factory.mktemp("ray")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = isolated([sys.executable, "-m", "tests.deploy.ray.session", str(folder)])
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=4 * WAIT_S
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_replicas_are_added_while_many_calls_are_in_progress(seen: dict[str, Any]) -> None:
    assert (seen["at first"], seen["under load"]) == (1, 2)


def test_every_protocol_is_answered_through_the_ingress(seen: dict[str, Any]) -> None:
    assert seen["protocols"] == {
        "classify": "lora:2",
        "stream": ["0", "1", "2"],
        "features": 48,
        "feedback": ["matched"] * 3,
        "infer": "shapes/lora",
        "infer_stream": ["shapes/lora"] * 2,
        "ready": True,
        "health": 1,
        "routes": ["best"],
    }


def test_errors_arrive_with_their_status_field_and_remedy(seen: dict[str, Any]) -> None:
    assert seen["refusals"] == {
        "unary": ["NOT_FOUND", "adapter"],
        "stream": [
            "INVALID_ARGUMENT",
            "message: the bytes are not a StreamRequest; send a corolla.v1.StreamRequest",
        ],
        "every replica": ["NOT_FOUND"],
    }


def test_an_adapter_is_loaded_by_every_replica(seen: dict[str, Any]) -> None:
    assert seen["loaded"] == [1, 1]


def test_calls_of_one_adapter_go_to_one_replica_until_it_is_busier_than_the_other(
    seen: dict[str, Any],
) -> None:
    assert sorted(seen["affinity"]["single"]) == [0, 20]
    assert sum(seen["affinity"]["hot"]) == 120
    assert min(seen["affinity"]["hot"]) >= CALLERS


def test_a_new_deployment_fails_no_call(seen: dict[str, Any]) -> None:
    assert seen["redeployed"]["failures"] == []
    assert seen["redeployed"]["answered"] > CALLERS


def test_of_a_killed_replica_only_the_calls_in_progress_fail_and_may_be_repeated(
    seen: dict[str, Any],
) -> None:
    assert seen["killed"]["failures"] in ([], [f"UNAVAILABLE: {lost.DETAILS}"])
    assert seen["killed"]["failed"] <= CALLERS


def test_a_killed_replica_is_replaced(seen: dict[str, Any]) -> None:
    assert seen["killed"]["replicas"] == 2


@pytest.mark.skipif(program() is None, reason=MISSING)
def test_clients_speak_tls_with_the_sidecar(seen: dict[str, Any]) -> None:
    assert seen["encrypted"] == {
        "classify": "lora:2",
        "large": 8,
        "stream": ["0", "1", "2"],
        "silent stream": ["0", "1"],
        "nobody": "UNAUTHENTICATED",
        "without TLS": "UNAVAILABLE",
    }


def test_principals_and_their_scopes_count_in_every_replica(seen: dict[str, Any]) -> None:
    assert seen["principals"] == {
        "classify, nobody": "UNAUTHENTICATED",
        "classify, reader": "OK",
        "classify, keeper": "PERMISSION_DENIED",
        "list, reader": "PERMISSION_DENIED",
        "list, keeper": "OK",
    }
