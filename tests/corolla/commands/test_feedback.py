"""`corolla feedback` against a real server, in this process."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from corolla.commands.feedback import feedback
from petl_vit.errors import InvalidInput, NotFound
from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.blocking import Client
from serving.client.labels import Label
from serving.client.messages import RequestFailed
from tests.serving.world import Running, encoded


def run(running: Running, *arguments: object, stdin: str | None = None) -> Result:
    words = [*map(str, arguments), "--server", running.address]
    return CliRunner().invoke(feedback, words, input=stdin)


def predicted(running: Running, count: int, route: str = "best") -> list[tuple[str, str]]:
    """Pairs of a prediction id and the class that was answered."""
    with running.client() as client:
        answer = client.classify([encoded(number) for number in range(count)], route=route, task="shapes")
    return [(result.prediction_id, result.top[0].class_name) for result in answer.results]


def test_pairs_are_labelled_and_may_be_sent_again(running: Running) -> None:
    (first, right), (second, answered) = predicted(running, 2)
    wrong = "star" if answered != "star" else "circle"
    pairs = (first, right, second, wrong)

    done, again = run(running, *pairs), run(running, *pairs)

    assert done.exit_code == again.exit_code == 0
    assert done.stdout.splitlines() == ["matched: correct", "matched: incorrect"]
    assert [line.partition(":")[0] for line in again.stdout.splitlines()] == ["duplicate"] * 2


def test_labels_that_were_not_taken_exit_1(running: Running) -> None:
    ((prediction_id, right),) = predicted(running, 1)
    wrong = "star" if right != "star" else "circle"
    assert run(running, prediction_id, right).exit_code == 0

    result = run(running, prediction_id, wrong, "forged", "star", prediction_id, "triangle")

    assert result.exit_code == 1
    statuses = [line.partition(":")[0] for line in result.stdout.splitlines()]
    assert statuses == ["conflict", "invalid_token", "invalid_class"]
    assert "send a higher revision" in result.stdout
    corrected = run(running, prediction_id, wrong, "--revision", "1")
    assert (corrected.exit_code, corrected.stdout) == (0, "corrected: incorrect\n")


def test_a_class_may_be_its_number_or_unknown(running: Running) -> None:
    (first, right), (second, _) = predicted(running, 2)
    number = ("circle", "square", "star").index(right)

    assert run(running, "--by-index", first, number).stdout == "matched: correct\n"
    assert run(running, "--unknown", second).stdout == "matched: unknown\n"
    assert run(running, first, right).stdout.startswith("duplicate: ")


def test_a_file_of_labels_is_sent_in_batches_and_summarised(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corolla.commands.feedback.MAX_LABELS", 3)
    pairs = predicted(running, 7)
    path = tmp_path / "labels.csv"
    rows = [f"{prediction_id},{right}" for prediction_id, right in pairs]
    path.write_text("\n".join(["prediction_id,class_name", *rows, "forged,star"]) + "\n")

    result = run(running, "--file", path, "--source", "gold")
    document = json.loads(run(running, "--file", path, "--json").stdout)

    assert result.exit_code == 1
    assert "matched 7 7 of 7" in " ".join(result.stdout.split())
    assert result.stderr.startswith(f"{path}:9: invalid_token: ")
    assert document["statuses"] == {"duplicate": 7, "invalid_token": 1}
    assert document["results"][7]["line"] == 9
    assert document["results"][0]["status"] == "FEEDBACK_STATUS_DUPLICATE"
    assert document["results"][0]["prediction_id"] == pairs[0][0]


def test_lines_of_standard_input_have_sources_and_revisions_of_their_own(running: Running) -> None:
    ((prediction_id, right),) = predicted(running, 1)
    lines = [
        {"prediction_id": prediction_id, "class_name": right, "source": "implicit"},
        {"prediction_id": prediction_id, "any_of": ["circle", "square"], "revision": 1},
        {"prediction_id": prediction_id, "unknown": True, "source": "gold"},
    ]

    result = run(running, "--file", "-", "--json", stdin="\n".join(map(json.dumps, lines)))

    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["statuses"] == {"matched": 1, "corrected": 2}


def test_a_file_that_stops_half_way_says_how_far_it_came(
    running: Running, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("corolla.commands.feedback.MAX_LABELS", 1)
    pairs = predicted(running, 2)
    calls = []

    def failing_later(self: Client, labels: list[Label]) -> pb.FeedbackResponse:
        calls.append(labels)
        if len(calls) == 2:
            raise RequestFailed("UNAVAILABLE", "the database of labels cannot be used")
        return send(self, labels)

    send = Client.feedback
    path = tmp_path / "labels.csv"
    path.write_text("prediction_id,class_name\n" + "".join(f"{a},{b}\n" for a, b in pairs))
    monkeypatch.setattr(Client, "feedback", failing_later)
    result = run(running, "--file", path)

    assert isinstance(result.exception, RequestFailed)
    assert "1 of 2 labels were sent before: send all again" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["token"], "a prediction id without its class"),
        ([], "there is no label"),
        (["--by-index", "id", "cat"], "'cat' is not a class's number"),
        (["--file", "-", "id", "cat"], "labels: it does not go with --file"),
        (["--file", "-", "--unknown"], "unknown: it does not go with --file"),
    ],
)
def test_what_does_not_fit_together_is_refused(running: Running, words: list[str], problem: str) -> None:
    result = run(running, *words)
    assert isinstance(result.exception, InvalidInput)
    assert problem in str(result.exception)


def test_a_file_that_is_not_there_is_named(running: Running, tmp_path: Path) -> None:
    assert isinstance(run(running, "--file", tmp_path / "none.csv").exception, NotFound)
