"""Steps at a pace, and the state in a file."""

import json
from pathlib import Path

import pytest

from petl_vit.errors import Corrupt, InvalidInput
from serving.monitor.evaluator import Evaluator, EvaluatorSettings
from serving.monitor.loop import Loop, StateFile
from serving.monitor.samples import Reading
from serving.monitor.status import Status
from tests.serving.monitor.world import Server, Servers


def evaluator(source: Servers, every_s: float = 0.001) -> Evaluator:
    return Evaluator(source, EvaluatorSettings(every_s=every_s))


def images(status: Status) -> int:
    return sum(domain.images for route in status.routes for domain in route.domains)


def test_it_steps_until_it_is_stopped() -> None:
    statuses: list[Status] = []

    def after(status: Status) -> None:
        statuses.append(status)
        if len(statuses) == 3:
            loop.stop()

    loop = Loop(evaluator(Servers(Server())), after=after)
    loop.run()

    assert len(statuses) == 3


def test_a_restart_goes_on_from_the_file(tmp_path: Path) -> None:
    server = Server()
    server.predict(100)
    file = StateFile(tmp_path / "state.json")
    first = evaluator(Servers(server))
    assert not file.load(first)
    Loop(first, state=file).step()

    server.predict(50)
    second = evaluator(Servers(server))
    assert file.load(second)

    assert images(Loop(second, state=file).step()) == 150


def test_a_disk_that_is_full_is_a_problem_and_not_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server()
    server.predict(100)
    loop = Loop(evaluator(Servers(server)), state=StateFile(tmp_path / "state.json"))

    def full(self: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        status = loop.step()
    assert status.problems == (
        f"the state cannot be kept in {tmp_path / 'state.json'}: no space left on device",
    )
    assert images(status) == 100
    assert [*tmp_path.iterdir()] == []

    assert loop.step().problems == ()
    assert (tmp_path / "state.json").exists()


def test_a_fault_of_one_step_is_said_and_the_next_step_works(caplog: pytest.LogCaptureFixture) -> None:
    class Faulty(Servers):
        def read(self) -> Reading:
            if self.now == 1000:
                raise ZeroDivisionError("once")
            return super().read()

    source = Faulty(Server())
    loop = Loop(evaluator(source))

    assert loop.step().problems == ("a step failed: ZeroDivisionError: once",)
    assert "once" in caplog.text
    source.now += 1
    assert loop.step().problems == ()


def test_a_file_that_is_no_state_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for text, said in (("{", "is not JSON"), ("[]", "it is not the state of an evaluator")):
        path.write_text(text)
        with pytest.raises(Corrupt, match=said) as raised:
            StateFile(path).load(evaluator(Servers(Server())))
        assert raised.value.field == "state"
        assert "remove" in (raised.value.remedy or "")
    path.write_text(json.dumps({"format": 1, "source": "another"}))
    with pytest.raises(InvalidInput, match="it is of another"):
        StateFile(path).load(evaluator(Servers(Server())))


def test_a_folder_or_a_file_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is a folder"):
        StateFile(tmp_path)
    with pytest.raises(InvalidInput, match="is not a folder"):
        StateFile(tmp_path / "missing" / "state.json")
