"""What the command line imports: names, help and arguments wait for none of what computes.

Commands run in a process of their own, which says what each was the first to import.
"""

import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from corolla import command
from tests.serving.world import World, encoded

ROOT = Path(command.__file__).parent.parent
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "safetensors",
    "PIL",
    "triton",
    "sympy",
    "datasets",
    "pandas",
    "pyarrow",
)
CHILD = f"""
import contextlib, io, json, os, sys
from corolla import command
said = []
for arguments, environment in json.load(sys.stdin):
    os.environ.update(environment)
    before, out, err = set(sys.modules), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command.run(arguments)
    heavy = [name for name in {HEAVY!r} if name in sys.modules.keys() - before]
    said.append([code, out.getvalue(), err.getvalue(), heavy])
    for name in environment:
        del os.environ[name]
json.dump(said, sys.stdout)
"""


def commands() -> Iterator[tuple[str, ...]]:
    """The words of every command and subcommand, from the groups themselves."""

    def below(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        if isinstance(command, click.Group):
            context = click.Context(command, info_name="corolla")
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                yield from below(found, (*words, name))

    return below(command.corolla, ())


class Ran(NamedTuple):
    """What a command line came to, and what of `HEAVY` it was the first to import."""

    code: int
    out: str
    err: str
    heavy: list[str]


def ran(lines: Iterable[tuple[Sequence[str], dict[str, str]]]) -> list[Ran]:
    """Command lines with their variables, one after the other in one new process."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD],
        input=json.dumps(list(lines)),
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("COROLLA_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [Ran(*said) for said in json.loads(done.stdout)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(World.make(tmp_path_factory.mktemp("names") / "store").folder)


ALL = list(commands())


@pytest.fixture(scope="module")
def helped() -> dict[tuple[str, ...], Ran]:
    return dict(zip(ALL, ran(([*words, "--help"], {}) for words in ALL), strict=True))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_help_has_examples_and_imports_nothing_that_computes(
    words: tuple[str, ...], helped: dict[tuple[str, ...], Ran]
) -> None:
    help = helped[words]

    assert (help.code, help.err, help.heavy) == (0, "", [])
    line = " ".join(["corolla", *words])
    assert help.out.startswith(f"Usage: {line}")
    # Methods share the examples of `train`, and groups have those of their commands.
    if words[:1] != ("train",) and "COMMAND [ARGS]" not in help.out:
        assert line in help.out.partition("Examples:")[2]


READING = (
    "adapters list",
    "adapters show shapes/lora@prod",
    "adapters alias shapes/lora canary 1",
    "backbones list",
    "backbones show tiny",
    "routes list",
    "routes put both lora,ssf --task shapes",
    "routes show best --task shapes",
    "routes delete both --task shapes",
    "tasks list",
    "tasks show shapes",
)


def test_names_aliases_routes_and_manifests_are_read_and_changed_without_what_computes(store: str) -> None:
    found = ran((line.split(), {"COROLLA_STORE": store}) for line in READING)
    for line, read in zip(READING, found, strict=True):
        assert (line, read.code, read.err, read.heavy) == (line, 0, "", [])


def test_reading_costs_less_than_half_of_importing_torch(store: str) -> None:
    def cpu_s(code: str, *arguments: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = os.environ | {"COROLLA_STORE": store}
        subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, env=environment, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    reading = "from corolla import command; command.main()"
    assert min(cpu_s(reading, "adapters", "list") for _ in range(2)) < cpu_s("import torch") / 2


REFUSED = {
    "adapters delete lora:99 --task shapes --yes": "no version 99",
    "adapters export lora:99 --task shapes --format archive --out x": "no version 99",
    "adapters fold lora,ssf --task shapes --out x": "an ensemble is 2 models",
    "adapters fold lorra --task shapes --out x": "did you mean lora",
    "adapters import nowhere --format archive": "nowhere does not exist",
    "adapters lits": "No such command 'lits'",
    "adapters resident --server localhost:1": "nothing listens there; is `corolla serve` running?",
    "adapters soup --task nope --members a,b --data digits --name x": "nope",
    "backbones show tinny": "did you mean tiny",
    "classify": "Missing argument",
    "classify gone.jpg --route lora": "gone.jpg does not exist",
    "evaluate --task shapes --route lorra --data digits": "did you mean lora",
    "evaluate --task shapes --route lora --data digits --shift noize:3": "did you mean noise",
    "export onnx lorra --task shapes --out x.onnx": "did you mean lora",
    "feedback one": "a prediction id without its class",
    "package torchserve --backbone tinny --out x": "did you mean tiny",
    "predict gone.jpg --route lora --out x.csv": "gone.jpg",
    "report --eval gone.json --out x.html": "gone.json does not exist",
    "report --task shapse --data digits --out x.html": "has no adapter to report",
    "routes put both lora,,ssf --task shapes": "route",
    "sweep --data digits --task t": "no method is named",
    "sweep lora --data digits --task t --grid papr": "did you mean paper",
    "sweep lorra --data digits --task t": "did you mean lora",
    "serve --device tpu": "'tpu' is not one of",
    "serve --host 0.0.0.0": "without TLS",
    "serve --host nowhere.invalid --insecure": "host: 'nowhere.invalid' is not known",
    "serve --max-images 0": "0 is not in the range x>=1",
    "serve --prot 1": "No such option '--prot'",
    "serve --tls-certificate x": "needs its key",
    "tasks show shpaes": "did you mean shapes",
    "train lora": "Missing option '--data'",
    "train lora --data digits --task t --rnk 4": "No such option '--rnk'",
    "train lorra --data digits --task t": "did you mean lora",
    "train soup --data digits --task t": "made of trained adapters",
}


@pytest.fixture(scope="module")
def refused(store: str) -> dict[str, Ran]:
    return dict(zip(REFUSED, ran((line.split(), {"COROLLA_STORE": store}) for line in REFUSED), strict=True))


@pytest.mark.parametrize("line", REFUSED)
def test_a_mistake_is_told_without_what_computes(line: str, refused: dict[str, Ran]) -> None:
    assert (refused[line].code, refused[line].heavy) == (2, [])
    assert REFUSED[line] in refused[line].err


def test_a_misspelt_variable_is_told_without_what_computes(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(encoded(0))
    lines = (["adapters", "list"], ["serve"], ["predict", str(image), "--route", "lora", "--out", "x.csv"])
    variables = ({"COROLLA_STROE": "x"}, {"COROLLA_PROT": "1"}, {"COROLLA_MAX_BATCH_ROW": "1"})
    meant = ("COROLLA_STORE", "COROLLA_PORT", "COROLLA_MAX_BATCH_ROWS")
    for found, name in zip(ran(zip(lines, variables, strict=True)), meant, strict=True):
        assert (found.code, found.heavy) == (2, [])
        assert f"did you mean {name}?" in found.err


def test_a_taken_port_is_told_before_what_computes_is_imported(store: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = {"--port": "--metrics-port", "--metrics-port": "--port"}
        lines = (["serve", flag, port, other, "0"] for flag, other in flags.items())
        found = ran((line, {"COROLLA_STORE": store}) for line in lines)

    for flag, said in zip(flags, found, strict=True):
        assert (said.code, said.heavy) == (2, [])
        assert f"corolla: {flag}: cannot listen on 127.0.0.1:{port}: address already in use" in said.err
