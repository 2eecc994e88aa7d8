"""The real TorchServe with its own tokens and ours: who is let in, and that no token is written anywhere."""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.torchserve.packaging import java_problem
from tests.serving.access.callers import Callers, secret_of
from tests.serving.world import World, encoded

pytest.importorskip("ts", reason="the extra `torchserve` is not installed")
pytest.importorskip("model_archiver", reason="the extra `torchserve` is not installed")

from tests.integration.test_torchserve import BASE, CALL_S, TorchServe, package

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torchserve,
    pytest.mark.skipif(java_problem() is not None, reason="no Java 17"),
]


class Guarded(TorchServe):
    """A TorchServe whose own token authorisation is on, over principals of ours."""

    def __init__(self, world: World, folder: Path) -> None:
        self.callers = Callers(folder / "principals.json")
        self.callers.add("app", "infer", tasks=("shapes",))
        package(world.folder, folder, "--principals", str(self.callers.write()))
        super().__init__(folder, disable_token_authorization="false")

    def theirs(self, kind: str = "inference") -> str:
        try:
            return str(json.loads((self.folder / "key_file.json").read_text())[kind]["key"])
        except ValueError as error:
            raise OSError("it is being written") from error

    def asking(self, name: str, path: str) -> urllib.request.Request:
        headers = {"Authorization": f"Bearer {self.theirs('management')}"}
        return urllib.request.Request(self.url(name, path), headers=headers)

    def ask(self, task: str = "shapes", **headers: str) -> tuple[int, dict[str, Any]]:
        image = base64.b64encode(encoded(0)).decode()
        body = json.dumps({"image": image, "route": "lora", "task": task}).encode()
        shown = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(
            self.url("inference", "/predictions/corolla"), body, {"Content-Type": "application/json", **shown}
        )
        try:
            with urllib.request.urlopen(request, timeout=CALL_S) as reply:
                return reply.status, json.loads(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    world = World.make(tmp_path_factory.mktemp("guarded") / "store")
    with Guarded(world, tmp_path_factory.mktemp("served")) as guarded:
        yield guarded


def test_both_tokens_are_asked_for_and_neither_is_written_anywhere(guarded: Guarded) -> None:
    theirs, ours = f"Bearer {guarded.theirs()}", f"Bearer {guarded.callers.tokens['app']}"

    status, answer = guarded.ask(Authorization=theirs, X_Corolla_Authorization=ours)
    assert (status, answer.get("route")) == (200, "lora:2"), answer
    assert guarded.ask(X_Corolla_Authorization=ours)[0] == 400  # TorchServe's word for its own token
    assert guarded.ask(Authorization=theirs)[0] == 401
    assert guarded.ask(Authorization=theirs, X_Corolla_Authorization=ours[:-1] + "!")[0] == 401
    assert guarded.ask("colours", Authorization=theirs, X_Corolla_Authorization=ours)[0] == 403

    predictions, image = guarded.predictions, encoded(0)
    metadata = (("authorization", theirs),)
    asked = {"image": image, **BASE}
    assert predictions(authorization=ours.encode(), metadata=metadata, **asked)["route"] == "lora:2"
    with pytest.raises(grpc.RpcError) as raised:
        predictions(metadata=metadata, **asked)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED

    secret = secret_of(guarded.callers.tokens["app"])
    written = [path for path in guarded.folder.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".log") for path in written)
    assert not [path for path in written if secret.encode() in path.read_bytes()]
    assert not [line for process in guarded.processes() for line in process.cmdline() if secret in line]
    samples = guarded.scrape()
    assert not [sample for sample in samples if secret in sample]
