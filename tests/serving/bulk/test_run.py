"""Bulk classification: rows, formats, what is refused, and runs that are killed."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from model_store.routes.text import parse_route
from petl_vit.errors import Conflict, CorollaError, InvalidInput, NotFound
from serving.bulk.output import COLUMNS, Output
from serving.bulk.run import Bulk, Summary, predict
from serving.bulk.sources import Source, listed
from tests.serving.world import SHAPES, Running, World, encoded, until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven images in two folders; two of them are none."""
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    for i in range(9):
        kind = ("PNG", "JPEG", "WEBP")[i % 3]
        place = photos if i < 5 else photos / "more"
        (place / f"{i}.{kind.lower()}").write_bytes(encoded(i, kind))
    (photos / "5.png").write_bytes(b"no image")
    (photos / "more" / "empty.PNG").write_bytes(b"")
    (photos / "notes.txt").write_text("no image, and not named as one")
    (photos / ".hidden.png").write_bytes(encoded(0))
    return photos


def bulk(*given: Path, route: str = "lora", column: str = "path", **changes: Any) -> Bulk:
    options: dict[str, Any] = {"task": "shapes", "route": parse_route(route)} | changes
    images, left_out = listed(given, column=column)
    return Bulk(sources=images, left_out=left_out.counts, **options)


def run(world: World, asked: Bulk, out: Path, batch_rows: int = 4, **options: Any) -> Summary:
    settings = {"store": str(world.folder), "max_batch_rows": batch_rows, "threads": 1}
    return predict(asked, out, settings | {"device": "cpu", "precision": "fp32"}, **options)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# Rows


@pytest.mark.numerics
def test_every_image_has_a_row_as_a_server_would_answer_it(
    world: World, running: Running, folder: Path, tmp_path: Path
) -> None:
    summary = run(world, bulk(folder, route="best", probabilities=True, top=2), tmp_path / "out.jsonl")
    found = rows(tmp_path / "out.jsonl")

    assert [tuple(row) for row in found] == [(*COLUMNS, "probabilities")] * 11
    assert [Path(row["path"]).name for row in found] == [
        *("0.png", "1.jpeg", "2.webp", "3.png", "4.jpeg", "5.png"),
        *("5.webp", "6.png", "7.jpeg", "8.webp", "empty.PNG"),
    ]
    good = [row for row in found if row["error"] is None]
    assert (summary.images, summary.failed, len(good)) == (11, 2, 9)
    assert summary.left_out == {"clutter": 1, "not an image": 1}
    with running.client() as client:
        for row in good:
            image = Path(row["path"]).read_bytes()
            (answer,) = client.classify(
                [image], route="best", task="shapes", top_k=2, probabilities=True
            ).results
            assert row["label"] == answer.top[0].class_name
            assert row["probability"] == pytest.approx(answer.top[0].probability, abs=1e-5)
            assert [one["label"] for one in row["top"]] == [score.class_name for score in answer.top]
            assert list(row["probabilities"]) == list(SHAPES)
            assert list(row["probabilities"].values()) == pytest.approx(list(answer.probabilities), abs=1e-5)
            for name in ("agreement", "entropy", "mutual_information"):
                assert row[name] == pytest.approx(getattr(answer, name), abs=1e-4)
    assert {row["route"] for row in found} == {"lora:2, ssf:1, 0.5*bitfit:1"}
    assert found[0]["adapters"] == ["shapes/lora:2", "shapes/ssf:1", "shapes/bitfit:1"]


def test_a_bad_image_has_a_row_with_its_error(world: World, folder: Path, tmp_path: Path) -> None:
    run(world, bulk(folder), tmp_path / "out.jsonl")

    bad = [row for row in rows(tmp_path / "out.jsonl") if row["error"]]
    assert [Path(row["path"]).name for row in bad] == ["5.png", "empty.PNG"]
    assert bad[0]["error"].endswith("; convert it to JPEG, PNG or WebP")
    assert {row["label"] for row in bad} == {None}


def test_a_csv_names_images_relative_to_itself(world: World, folder: Path, tmp_path: Path) -> None:
    absolute = folder / "more" / "6.png"
    text = f"\ufeffid,image\r\n1,photos/0.png\r\n2,photos/gone.png\r\n3,\r\n4,{absolute}\r\n5,photos\r\n6\r\n"
    (tmp_path / "shop.csv").write_text(text, newline="")
    run(world, bulk(tmp_path / "shop.csv", column="image"), tmp_path / "out.jsonl")

    found = rows(tmp_path / "out.jsonl")
    paths = ["photos/0.png", "photos/gone.png", "", str(absolute), "photos", ""]
    assert [row["path"] for row in found] == paths
    errors = [row["error"] for row in found]
    assert errors[0] is errors[3] is None
    assert [errors[i] for i in (1, 2, 4, 5)] == [
        "the file does not exist",
        "the row has no path",
        "it is not a file",
        "the row has no path",
    ]


def test_what_cannot_be_read_fails_its_row(world: World, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "huge.png").touch()
    os.truncate(tmp_path / "huge.png", 10 * 2**30)
    (tmp_path / "locked.png").touch(0)
    (tmp_path / "list.csv").write_text("path\npipe.png\nhuge.png\na\0b.png\n")
    summary = run(world, bulk(tmp_path / "list.csv"), tmp_path / "out.jsonl")

    errors = [row["error"] for row in rows(tmp_path / "out.jsonl")]
    assert summary.failed == 3
    assert errors[0] == "it is not a file"
    assert errors[1].startswith("it has 10,737,418,240 bytes, at most")
    assert errors[2] == "it is not a path"


def test_sources_of_all_kinds_come_in_the_order_given(world: World, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path\nphotos/3.png\n")
    given = [folder / "4.jpeg", tmp_path / "list.csv", folder / "more", folder / "4.jpeg"]
    found = listed(given, column="path").images

    names = ["4.jpeg", "3.png", "5.webp", "6.png", "7.jpeg", "8.webp", "empty.PNG", "4.jpeg"]
    assert [Path(source.path).name for source in found] == names
    assert found[1] == Source(path="photos/3.png", file=str(tmp_path / "photos/3.png"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_format_holds_the_same_rows(world: World, folder: Path, tmp_path: Path, kind: str) -> None:
    asked = bulk(folder, route="lora, ssf", probabilities=True)
    run(world, asked, tmp_path / "out.jsonl")
    run(world, asked, tmp_path / f"out.{kind}")

    expected = rows(tmp_path / "out.jsonl")
    if kind == "parquet":
        found = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    else:
        with (tmp_path / "out.csv").open(newline="") as file:
            found = [_typed(row) for row in csv.DictReader(file)]
    assert found == expected


def _typed(row: dict[str, str]) -> dict[str, Any]:
    text = ("path", "label", "route", "error")
    return {
        name: None if value == "" else value if name in text else json.loads(value)
        for name, value in row.items()
    }


def test_an_ensemble_larger_than_a_batch_is_answered(world: World, folder: Path, tmp_path: Path) -> None:
    run(world, bulk(folder, route="lora, ssf, bitfit"), tmp_path / "small.jsonl", batch_rows=2)
    run(world, bulk(folder, route="lora, ssf, bitfit"), tmp_path / "large.jsonl", batch_rows=32)

    small, large = rows(tmp_path / "small.jsonl"), rows(tmp_path / "large.jsonl")
    assert [row["label"] for row in small] == [row["label"] for row in large]


def test_a_route_follows_no_alias_that_moves_while_it_runs(
    own_world: World, folder: Path, tmp_path: Path
) -> None:
    own_world.put_route("mine", "lora@prod", temperature=3.0)
    moved: list[int] = []

    def move(done: int) -> None:
        if done and not moved:
            own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)
            own_world.put_route("mine", "ssf")
        moved.append(done)

    run(own_world, bulk(folder, route="mine"), tmp_path / "moved.jsonl", advance=move)
    own_world.put_route("mine", "lora:1", temperature=3.0)
    run(own_world, bulk(folder, route="mine"), tmp_path / "still.jsonl")
    assert (tmp_path / "moved.jsonl").read_text() == (tmp_path / "still.jsonl").read_text()


# Runs that are stopped


class Stopped(Exception):
    pass


def stopped(world: World, asked: Bulk, out: Path, after: int) -> None:
    """A run that ends, without a word, when so many images are done."""
    done = 0

    def advance(n: int) -> None:
        nonlocal done
        done += n
        if done >= after:
            raise Stopped

    with pytest.raises(Stopped):
        run(world, asked, out, advance=advance)


@pytest.mark.parametrize("torn", [b"", b'{"path": "photos/mo'])
@pytest.mark.parametrize("after", [4, 8, 11])
def test_a_stopped_run_goes_on_and_gives_the_same(
    world: World, folder: Path, tmp_path: Path, after: int, torn: bytes
) -> None:
    asked = bulk(folder, route="best", probabilities=True)
    out = tmp_path / "out.jsonl"
    run(world, asked, tmp_path / "whole.jsonl")
    stopped(world, asked, out, after)
    assert not out.exists()
    with (tmp_path / "out.jsonl.part").open("ab") as file:
        file.write(torn)

    progress: list[int] = []
    summary = run(world, asked, out, advance=progress.append)

    assert summary.resumed == progress[0] == after
    assert summary.failed == 2
    assert sum(progress) == 11
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out.jsonl", "whole.jsonl"}


def test_rows_of_a_torn_group_are_done_again(world: World, folder: Path, tmp_path: Path) -> None:
    asked, out = bulk(folder), tmp_path / "out.jsonl"
    run(world, asked, tmp_path / "whole.jsonl")
    stopped(world, asked, out, 8)
    part = tmp_path / "out.jsonl.part"
    part.write_bytes(b"".join(part.read_bytes().splitlines(keepends=True)[:-2]))

    assert run(world, asked, out).resumed == 4
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_killed_process_goes_on_and_gives_the_same(world: World, tmp_path: Path) -> None:
    photos, out = tmp_path / "many", tmp_path / "out.jsonl"
    photos.mkdir()
    for i in range(150):
        (photos / f"{i:03}.png").write_bytes(encoded(i))
    code = "import sys; from corolla.command import run; sys.exit(run(sys.argv[1:]))"
    options = {"--route": "best", "--task": "shapes", "--batch-rows": "4"}
    options |= {"--device": "cpu", "--precision": "fp32"}
    where = {"--store": world.folder, "--out": out}
    arguments = [str(part) for pair in (options | where).items() for part in pair]
    command = [sys.executable, "-c", code, "predict", str(photos), *arguments]
    part = tmp_path / "out.jsonl.part"

    environment = os.environ | {"COROLLA_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.readline()  # it has imported torch
        until(lambda: process.poll() is not None or (part.exists() and part.read_bytes().count(b"\n") > 3))
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()

    summary = run(world, bulk(photos, route="best"), out)
    run(world, bulk(photos, route="best"), tmp_path / "whole.jsonl")
    assert 3 <= summary.resumed < 150
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"route": "ssf"}, "route and another adapters"),
        ({"top": 1}, "top"),
        ({"probabilities": True}, "probabilities"),
    ],
)
def test_the_rows_of_another_run_are_not_gone_on_with(
    world: World, folder: Path, tmp_path: Path, changes: dict[str, Any], differs: str
) -> None:
    out = tmp_path / "out.jsonl"
    stopped(world, bulk(folder), out, 4)

    with pytest.raises(Conflict, match=f"another {differs}"):
        run(world, bulk(folder, **changes), out)
    (folder / "9.png").write_bytes(encoded(9))
    with pytest.raises(Conflict, match="another list of images and another images"):
        run(world, bulk(folder), out)
    assert run(world, bulk(folder, overwrite=True), out).resumed == 0


def test_a_part_that_is_none_is_refused_and_an_empty_one_is_begun(
    world: World, folder: Path, tmp_path: Path
) -> None:
    part = tmp_path / "out.jsonl.part"
    for text in ("hello\n", "[]\n", "\n"):
        part.write_text(text)
        with pytest.raises(Conflict, match="another file"):
            run(world, bulk(folder), tmp_path / "out.jsonl")
    part.write_text('{"ro')
    assert run(world, bulk(folder), tmp_path / "out.jsonl").resumed == 0


# What is refused


@pytest.mark.parametrize(
    ("out", "error", "field"),
    [
        ("out.xlsx", InvalidInput, "out"),
        ("out", InvalidInput, "out"),
        ("gone/out.csv", NotFound, "out"),
        ("there.csv", Conflict, "out"),
        ("folder.csv", Conflict, "out"),
    ],
)
def test_an_output_that_cannot_be_is_refused_at_once(
    tmp_path: Path, out: str, error: type[CorollaError], field: str
) -> None:
    (tmp_path / "there.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(error) as caught:
        Output(tmp_path / out, overwrite=False)
    assert caught.value.field == field


def test_an_output_is_replaced_when_that_is_asked_for(world: World, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("old")
    run(world, bulk(folder, overwrite=True), tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("path,label,")


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"route": "lorra"}, NotFound, "adapter"),
        ({"route": "2*lora"}, InvalidInput, "alpha"),
        ({"task": ""}, InvalidInput, "task"),
        ({"route": "lora, colours/lora"}, InvalidInput, "route"),
    ],
)
def test_a_route_that_cannot_be_answered_is_refused_before_anything_is_written(
    world: World, folder: Path, tmp_path: Path, changes: dict[str, Any], error: type[CorollaError], field: str
) -> None:
    with pytest.raises(error) as caught:
        run(world, bulk(folder, **changes), tmp_path / "out.jsonl")
    assert caught.value.field == field
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_damaged_adapter_ends_the_run(own_world: World, folder: Path, tmp_path: Path) -> None:
    own_world.adapter_file("shapes", "lora", 2).write_bytes(b"damaged")
    with pytest.raises(CorollaError):
        run(own_world, bulk(folder), tmp_path / "out.jsonl")


def test_a_store_that_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no store at"):
        predict(bulk(folder), tmp_path / "out.jsonl", {"store": str(tmp_path / "empty")})
