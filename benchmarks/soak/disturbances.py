"""What happens to a server that answers: adapters come and go, names move, clients die, training runs."""

import random
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import grpc

from benchmarks.adapters import tensors
from benchmarks.pictures import jpeg
from benchmarks.processes import running
from benchmarks.soak.expected import Expected, Route, Verdict
from benchmarks.soak.relay import relayed, silent, wait_for_client
from benchmarks.soak.traffic import Traffic, seconds_until
from benchmarks.stores import TASK
from model_store import deletion
from model_store.format.records import Draft
from model_store.store import Store
from petl_vit import methods
from petl_vit.vit import FrozenViT
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of

PROD, BLEND = "prod", "blend"
"""The alias that moves between two versions of every adapter, and the named route that moves."""
RETRAINED = "retrained"
"""The task that is trained meanwhile."""
_IN_THE_WAY = ("NOT_FOUND", "ABORTED", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED")
_FOLLOWED_S = 30.0


@dataclass(kw_only=True)
class Scene:
    """A server under traffic, and all that one needs to disturb it.

    Attributes:
        names: Adapters with the versions 1 and 2.
        pause_s: Between two disturbances of one kind.
        done: What was done, and how often.
        problems: What must not happen, in words.
    """

    address: str
    store: Store
    folder: Path
    vit: FrozenViT
    names: Sequence[str]
    expected: Expected
    traffic: Traffic
    pause_s: float
    train_flags: Sequence[str]
    done: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def client(self, address: str | None = None) -> Client:
        return Client(address or self.address, timeout_s=60)

    def check(self, client: Client, route: Route, task: str = TASK) -> None:
        """Asks for a route, and notes an answer that is not right."""
        image, sent = random.randrange(len(self.expected.images)), time.monotonic()
        given = [self.expected.images[image]]
        answer = client.classify(given, route=route.text, task=task, probabilities=True)
        verdict, problem = self.expected.judge(route, image, answer, sent)
        if verdict is not Verdict.RIGHT:
            self.problems.append(f"{verdict}: {problem}")

    def publish(self, name: str, method: str, seed: int) -> str:
        """A new version of an adapter, and what it must answer; returns `name:version`."""
        record = self.store.tasks.get(TASK, self.store.backbones.get("bench").digest)
        draft = Draft.of(
            task=TASK,
            name=name,
            method=method,
            config=methods.get(method)().model_dump(mode="json"),
            backbone_digest=record.spec.backbone_digest,
            task_digest=record.digest,
        )
        version = self.store.adapters.publish(draft, tensors(method, self.vit, seed)).version
        pinned = f"{name}:{version}"
        self.expected.learn(pinned)
        return pinned


Disturbance = Callable[[Scene, Event], None]
"""Goes on until the event is set; raises what nobody expects."""


def churn(scene: Scene, over: Event) -> None:
    """Adapters are loaded, pinned and unloaded; new ones are published, asked for and deleted."""
    chance = random.Random(1)
    with scene.client() as client:
        admin = AdminClient(client)
        while not over.wait(scene.pause_s):
            name = chance.choice(scene.names)
            act = chance.choice((admin.load_adapter, admin.unload_adapter, admin.pin_adapter, None))
            if act is None:
                _come_and_go(scene, client, chance.randrange(10**6), over)
                continue
            try:
                act(name, task=TASK)
                if act == admin.pin_adapter:
                    admin.unpin_adapter(name, task=TASK)
                scene.done["loads, pins and unloads"] += 1
            except RequestFailed as error:
                if error.code not in _IN_THE_WAY:
                    raise
                scene.done["loads that were refused"] += 1


def _come_and_go(scene: Scene, client: Client, seed: int, over: Event) -> None:
    """One adapter's life: published, asked for under traffic, deleted, and not found from then on."""
    name = f"passing-{seed}"
    pinned = scene.publish(name, "lora", seed)
    route = Route.of(pinned)
    scene.check(client, route)
    scene.traffic.routes.append(route)
    over.wait(5 * scene.pause_s)
    scene.traffic.routes.remove(route)
    seconds_until(lambda: not scene.traffic.under_way[route.text], _FOLLOWED_S)
    deletion.delete(scene.store, TASK, name, int(pinned.partition(":")[2]))
    AdminClient(client).reload()  # by itself the server looks for deleted versions every 30 s
    scene.done["adapters published and deleted"] += 1

    def gone() -> bool:
        try:
            client.classify([scene.expected.images[0]], route=route.text, task=TASK)
        except RequestFailed as error:
            return error.code == "NOT_FOUND"
        return False

    if seconds_until(gone, _FOLLOWED_S) is None:
        scene.problems.append(f"{route.text} is answered {_FOLLOWED_S:g} s after it was deleted")


def switches(scene: Scene, over: Event) -> None:
    """Aliases and a named route move, by the server and in the store behind its back."""
    chance, at = random.Random(2), Counter[str]()
    with scene.client() as client:
        admin = AdminClient(client)
        while not over.wait(scene.pause_s):
            name = chance.choice(scene.names)
            at[name] += 1
            version = 1 + at[name] % 2
            digest = scene.expected.digest(f"{name}:{version}")
            if chance.random() < 0.25:
                with scene.expected.moving(BLEND, digest):
                    admin.put_route(BLEND, f"{name}:{version}", task=TASK, temperature=1.0)
            else:
                with scene.expected.moving(f"{name}@{PROD}", digest):
                    if chance.random() < 0.5:
                        admin.set_alias(name, PROD, version, task=TASK)
                    else:
                        scene.store.adapters.set_alias(TASK, name, PROD, version)
            scene.done["names moved"] += 1


def clients(scene: Scene, over: Event) -> None:
    """Clients send slowly, do not read, give up, say nothing, and die in the midst of a call."""
    number = 0
    while not over.is_set():
        number += 1
        with silent(scene.address, 4):
            _unread(scene, over)
            _cut_off(scene)
            _given_up(scene)
            if number % 4 == 1:
                _sent_slowly(scene)
        scene.done["connections that said nothing"] += 4
        over.wait(scene.pause_s)


def _unread(scene: Scene, over: Event) -> None:
    """A stream whose answers are read late."""
    route = Route.of(f"{scene.names[0]}:1")
    request = request_of([scene.expected.images[0]], route=route.text, task=TASK, probabilities=True)
    with scene.client() as client:
        sent = time.monotonic()
        answers = client.stream((f"{i}", request) for i in range(8))
        first = next(iter(answers))
        over.wait(2 * scene.pause_s)
        for _, answer in [first, *answers]:
            if isinstance(answer, RequestFailed):
                if answer.code != "RESOURCE_EXHAUSTED":
                    scene.problems.append(f"in a stream: {answer}")
                continue
            verdict, problem = scene.expected.judge(route, 0, answer, sent)
            if verdict is not Verdict.RIGHT:
                scene.problems.append(f"in a stream: {verdict}: {problem}")
    scene.done["streams that were read late"] += 1


def _cut_off(scene: Scene) -> None:
    """A client whose connection breaks while its calls are under way."""
    request = request_of([scene.expected.images[0]] * 4, route=f"{scene.names[1]}:1", task=TASK)
    with relayed(scene.address) as relay, scene.client(relay.address) as client:
        answers = client.stream((f"{i}", request) for i in range(4))
        with suppress(RequestFailed):
            next(iter(answers))
        wait_for_client(relay)
        relay.cut()
        with suppress(RequestFailed, StopIteration):
            next(iter(answers))
    scene.done["connections that broke"] += 1


def _given_up(scene: Scene) -> None:
    """Calls that are cancelled, or whose deadline passes at once."""
    with scene.client() as client:
        for timeout_s in (0.001, 0.02):
            try:
                given = [scene.expected.images[0]] * 4
                client.classify(given, route=f"{scene.names[2]}:1", task=TASK, timeout_s=timeout_s)
            except RequestFailed as error:
                if error.code not in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"):
                    scene.problems.append(f"a call without time ended with {error.code}")
    scene.done["calls that were given up"] += 2


def _sent_slowly(scene: Scene) -> None:
    """A request that takes seconds to arrive."""
    with relayed(scene.address, 20_000.0) as relay, scene.client(relay.address) as client:
        scene.check(client, Route.of(f"{scene.names[3]}:2"))
    scene.done["requests that arrived slowly"] += 1


def retraining(scene: Scene, over: Event) -> None:
    """Adapters are trained beside the server into its store, and asked for as soon as they are there."""
    data = scene.folder / "labelled"
    if not data.exists():
        for number in range(16):
            place = data / f"class {number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.jpg").write_bytes(jpeg(100 + number))
    while not over.is_set():
        seed = scene.done["trainings"]
        command = ["nice", sys.executable, "-m", "corolla", "train", "lora", "--data", str(data)]
        command += ["--task", RETRAINED, "--epochs", "2", "--seed", str(seed), *scene.train_flags]
        command += ["--store", str(scene.store), "--runs", str(scene.folder / "runs")]
        with running(command, folder=scene.folder, name="train") as tree:
            code = tree.process.wait()
        scene.done["trainings"] += 1
        if code != 0:
            said = (scene.folder / "train.log").read_text()[-500:]
            scene.problems.append(f"{shlex.join(command[1:6])} ended with {code}: {said}")
            return
        version = max(scene.store.adapters.versions(RETRAINED, "lora"))
        scene.expected.learn(f"lora:{version}", task=RETRAINED)
        with scene.client() as client:
            scene.check(client, Route.of(f"lora:{version}"), task=RETRAINED)
            scene.done["answers of retrained adapters"] += 1


KINDS: dict[str, Sequence[Disturbance]] = {
    "steady": (),
    "churn": (churn,),
    "switches": (switches,),
    "clients": (clients,),
    "retraining": (retraining,),
    "burst": (),
    "everything": (churn, switches, clients, retraining),
}
"""What goes on in the phases of a cycle, in their order."""


def guarded(disturbance: Disturbance, scene: Scene, over: Event) -> None:
    """Runs a disturbance, and notes the error that ends it."""
    try:
        disturbance(scene, over)
    except (Exception, grpc.RpcError) as error:
        scene.problems.append(f"{disturbance.__name__}: {type(error).__name__}: {error}")
