"""`corolla feedback`: true labels for earlier predictions, sent to a server. Imports no torch."""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import click

from corolla import files, flags, label_file, tables
from corolla.connection import document, on_server
from corolla.flags import epilog
from petl_vit.errors import CorollaError, InvalidInput
from serving.client.blocking import Client
from serving.client.labels import MAX_LABELS, SOURCES, TAKEN, Label, Source, Truth, status_name
from serving.client.messages import RequestFailed

STDIN = Path("-")


@click.command(
    epilog=epilog(
        "corolla feedback PREDICTION_ID cat PREDICTION_ID dog",
        "corolla feedback --unknown PREDICTION_ID",
        "corolla feedback --file labels.csv --source gold",
        "corolla feedback PREDICTION_ID dog --revision 1",
        "cat labels.jsonl | corolla feedback --file - --json",
    )
)
@click.argument("labels", nargs=-1)
@click.option(
    "--file",
    "path",
    type=flags.PATH,
    help="CSV with the columns prediction_id and class_name (or class_index, any_of, unknown; source, "
    "revision, labelled_at), or JSON lines with the same names; - is standard input.",
)
@click.option(
    "--source",
    type=click.Choice([*SOURCES]),
    default="user",
    show_default=True,
    help="Who says so, where a line of the file does not: a label of a better source (they are listed from "
    "the best) replaces others.",
)
@click.option(
    "--revision",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    help="A higher one replaces what the source said before, where a line of the file has none.",
)
@click.option("--by-index", is_flag=True, help="LABELS have the class's number in its task, not its name.")
@click.option("--unknown", is_flag=True, help="LABELS are prediction ids of which nobody can tell the class.")
@on_server
@flags.as_json
def feedback(
    labels: tuple[str, ...],
    path: Path | None,
    source: Source,
    revision: int,
    by_index: bool,
    unknown: bool,
    client: Client,
    as_json: bool,
) -> None:
    """Send true labels for earlier predictions.

    LABELS are pairs of a PREDICTION_ID and a CLASS. What was sent before may be sent again: each is counted
    once. Exits 1 when a label was not taken: it contradicts another, is late, or names no prediction or
    class.
    """
    if path is not None:
        _refuse_beside_file(labels, by_index=by_index, unknown=unknown)
        sent = _of_file(path, source, revision)
    else:
        sent = _typed(labels, source, revision, by_index=by_index, unknown=unknown)
    results = _send(client, [label for _, label in sent])
    if as_json:
        tables.print_json(_document(sent, results))
    elif path is None:
        for (_, label), result in zip(sent, results, strict=True):
            click.echo(f"{status_name(result)}: {result.message or _outcome(label, result)}")
    else:
        _summarise(path, sent, results)
    if any(status_name(result) not in TAKEN for result in results):
        click.get_current_context().exit(1)


Numbered = tuple[int, Label]
"""A label and its line in a file, or its place among those that were typed."""


def _refuse_beside_file(labels: tuple[str, ...], *, by_index: bool, unknown: bool) -> None:
    if labels or by_index or unknown:
        field = "labels" if labels else "by_index" if by_index else "unknown"
        remedy = "leave it out, and say it in the file: columns class_index and unknown"
        raise InvalidInput("it does not go with --file", field=field, remedy=remedy)


def _typed(
    labels: tuple[str, ...], source: Source, revision: int, *, by_index: bool, unknown: bool
) -> list[Numbered]:
    if not labels:
        raise InvalidInput(
            "there is no label", field="labels", remedy="write ID CLASS pairs, or name a file with --file"
        )
    pairs: Iterable[tuple[str, Truth]]
    if unknown:
        pairs = [(prediction_id, None) for prediction_id in labels]
    elif len(labels) % 2:
        raise InvalidInput("a prediction id without its class", field="labels", remedy="write ID CLASS pairs")
    else:
        pairs = zip(labels[::2], map(_number if by_index else str, labels[1::2]), strict=True)
    return [
        (number, Label(prediction_id=prediction_id, truth=truth, source=source, revision=revision))
        for number, (prediction_id, truth) in enumerate(pairs, 1)
    ]


def _number(text: str) -> int:
    if not text.isdecimal():
        raise InvalidInput(
            f"{text!r} is not a class's number", field="by_index", remedy="write a number from 0"
        )
    return int(text)


def _of_file(path: Path, source: Source, revision: int) -> list[Numbered]:
    data = sys.stdin.buffer.read() if path == STDIN else files.read(path, "file")
    name = "standard input" if path == STDIN else str(path)
    return [
        (
            line.number,
            Label(
                prediction_id=line.prediction_id,
                truth=line.truth,
                source=cast(Source, line.source or source),
                revision=revision if line.revision is None else line.revision,
                labelled_at=line.labelled_at,
            ),
        )
        for line in label_file.read(data, name, tuple(SOURCES))
    ]


def _send(client: Client, labels: Sequence[Label]) -> list[Any]:
    """What became of each label; shows how far it is where a person waits.

    Raises:
        RequestFailed: A call failed; says how many labels were sent before.
    """
    results: list[Any] = []
    shown = len(labels) > MAX_LABELS and sys.stderr.isatty()
    with click.progressbar(length=len(labels), label="labels", file=sys.stderr, hidden=not shown) as bar:
        for start in range(0, len(labels), MAX_LABELS):
            part = labels[start : start + MAX_LABELS]
            try:
                results += client.feedback(part).results
            except RequestFailed as error:
                raise _interrupted(error, len(results), len(labels)) from error
            bar.update(len(part))
    return results


def _interrupted(error: RequestFailed, done: int, count: int) -> CorollaError:
    if not done:
        return error
    problem = f"{error.problem}; {done:,} of {count:,} labels were sent before"
    return RequestFailed(error.code, f"{problem}: send all again, each is counted once")


def _outcome(label: Label, result: Any) -> str:
    if label.truth is None:
        return "unknown"
    return "correct" if result.correct else "incorrect"


def _document(sent: Sequence[Numbered], results: Sequence[Any]) -> dict[str, Any]:
    return {
        "statuses": dict(Counter(map(status_name, results))),
        "results": [
            {"line": number, "prediction_id": label.prediction_id, **document(result)}
            for (number, label), result in zip(sent, results, strict=True)
        ],
    }


def _summarise(path: Path, sent: Sequence[Numbered], results: Sequence[Any]) -> None:
    for (number, _), result in zip(sent, results, strict=True):
        if status_name(result) not in TAKEN:
            click.echo(f"{path}:{number}: {status_name(result)}: {result.message}", err=True)
    table = tables.table_of("status", "labels", "correct")
    for status, count in Counter(map(status_name, results)).most_common():
        same = [
            (label, result)
            for (_, label), result in zip(sent, results, strict=True)
            if status_name(result) == status and label.truth is not None
        ]
        correct = sum(result.correct for _, result in same)
        table.add_row(status, f"{count:,}", f"{correct:,} of {len(same):,}" if status in TAKEN else "")
    tables.print_table(table)
