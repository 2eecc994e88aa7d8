"""The command line's own manners; what the commands do is tested with them."""

import ast
import errno
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest

from corolla import command, group
from petl_vit.errors import NotFound

ROOT = Path(command.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TORCH_FREE = (
    "petl_vit.errors",
    "model_store.routes.algebra",
    "serving.client.admin",
    "serving.client.asynchronous",
    "serving.client.blocking",
    "serving.client.messages",
    "corolla.commands.classify",
    "serving.metrics.prediction_ids",
)
BLOCK = "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'timm')))\n"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line; given a function, it is what the one command `probe` does."""

    def run(*arguments: str, does: Callable[[], object] | None = None) -> tuple[int, str, str]:
        if does is not None:
            flag = click.Option(["--colour", "paint_colour"])
            probe = click.Command("probe", callback=lambda **_: does(), params=[flag])
            point = EntryPoint("probe", "nowhere:probe", command.PLUGINS)
            monkeypatch.setattr(group, "entry_points", lambda **_: [point])
            monkeypatch.setattr(EntryPoint, "load", lambda _: probe)
        code = command.run(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def _python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=6000,
        check=False,
    )


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from corolla.command import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    shown = _python(code)

    assert shown.returncode == 0, shown.stderr
    for name, listed in command.COMMANDS.items():
        assert f"  {name} " in shown.stdout
        assert listed.line in " ".join(shown.stdout.split())
    heavy = {"torch", "serving.client", "serving.settings", "training", "model_store", "grpc"}
    assert not heavy & set(shown.stderr.split())


def test_the_shell_completes_commands() -> None:
    wanted = {"COMP_WORDS": "corolla cl", "COMP_CWORD": "1", command.COMPLETION: "bash_complete"}
    shown = _python("from corolla import command; command.main()", **wanted)

    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "plain,classify\n", "")


def test_the_version_is_the_projects(run: Run) -> None:
    assert run("--version") == (0, f"corolla {PROJECT['version']}\n", "")


def test_nothing_asked_shows_the_help(run: Run) -> None:
    code, _, err = run()

    assert code == 2
    assert "Usage: corolla" in err


def test_a_mistyped_command_suggests_the_nearest(run: Run) -> None:
    code, out, err = run("clasify")

    assert (code, out) == (2, "")
    assert err == "corolla: No such command 'clasify'. Did you mean 'classify'? (see corolla --help)\n"


def test_a_mistyped_flag_suggests_the_nearest(run: Run) -> None:
    code, _, err = run("probe", "--color", does=lambda: None)

    assert code == 2
    assert err == "corolla: No such option '--color'. Did you mean '--colour'? (see corolla probe --help)\n"


def test_a_users_mistake_is_one_line_and_two(run: Run) -> None:
    def fail() -> None:
        raise NotFound("no adapter 'lorra' in digits", field="route", remedy="did you mean lora?")

    code, out, err = run("probe", does=fail)

    assert (code, out) == (2, "")
    assert err == "corolla: route: no adapter 'lorra' in digits; did you mean lora?\n"


@pytest.mark.parametrize(
    ("field", "said"),
    [("colour", "--colour"), ("paint_colour", "--colour"), ("brush", "brush"), ("images[1]", "images[1]")],
)
def test_a_field_that_is_a_flag_is_said_as_people_type_it(run: Run, field: str, said: str) -> None:
    def fail() -> None:
        raise NotFound("not here", field=field)

    assert run("probe", does=fail)[2] == f"corolla: {said}: not here\n"


@pytest.mark.parametrize("words", [("verify",), ("gc",), ("copy", "to")])
def test_an_error_of_a_command_in_a_group_names_its_flag(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(["store", *words, "--store", "s4://x"]) == 2
    assert capsys.readouterr().err.startswith("corolla: --store: 's4://x' does not open")


def test_no_part_of_corolla_names_a_field_as_a_flag() -> None:
    literals = {}
    for package in ("html_pages", "image_files", "petl_vit", "model_store", "training", "serving", "corolla"):
        for path in (ROOT / package).rglob("*.py"):
            calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
            for keyword in (keyword for call in calls for keyword in call.keywords if keyword.arg == "field"):
                for part in ast.walk(keyword.value):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        literals[part.value] = f"{path.relative_to(ROOT)}:{part.lineno}"

    assert "task" in literals
    assert [place for field, place in literals.items() if "-" in field or " " in field] == []


def test_an_error_of_ours_is_one_line_with_an_id_and_one(run: Run) -> None:
    def fail() -> None:
        raise KeyError("two\nlines")

    code, _, first = run("probe", does=fail)
    again = run("probe", does=fail)[2]

    assert code == 1
    assert first.count("\n") == 1
    assert first.startswith("corolla: unexpected KeyError: ")
    assert "(error " in first
    assert "COROLLA_DEBUG=1" in first
    assert again == first


@pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "is full"), (errno.EDQUOT, "is over its quota")])
def test_a_disk_without_space_is_told_with_the_remedy_and_is_no_fault_of_ours(
    run: Run, number: int, said: str
) -> None:
    def fail() -> None:
        raise OSError(number, "as the system says", "runs/log.jsonl")

    code, _, line = run("probe", does=fail)
    assert code == 2
    assert (
        line == f"corolla: the disk of runs/log.jsonl {said}; free space there and type the command again\n"
    )


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KeyError("x")

    monkeypatch.setenv("COROLLA_DEBUG", "0")
    assert "Traceback" not in run("probe", does=fail)[2]
    assert "Traceback" in run("--debug", "probe", does=fail)[2]


def test_a_commands_exit_code_is_kept_and_its_return_value_is_none(run: Run) -> None:
    def stop() -> None:
        click.get_current_context().exit(1)

    assert run("probe", does=stop)[0] == 1
    assert run("probe", does=lambda: 7)[0] == 0


def test_an_interrupt_is_130(run: Run) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    code, _, err = run("probe", does=interrupt)

    assert code == 130
    assert "Traceback" not in err


def test_a_missing_library_names_the_extra_that_brings_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str) -> None:
        raise ModuleNotFoundError("No module named 'grpc'", name="grpc.aio")

    monkeypatch.setattr(group, "import_module", absent)
    code, _, err = run("serve")

    assert code == 2
    assert err == "corolla: serve: needs grpc, which is not installed; run pip install 'corolla[serve]'\n"


def test_a_missing_part_of_corolla_is_an_error_of_ours(run: Run) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'serving.gone'", name="serving.gone")

    assert run("probe", does=fail)[0] == 1


def test_a_reader_that_leaves_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    child = subprocess.run(
        [sys.executable, "-m", "corolla", "--help"],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=600,
        check=False,
    )
    os.close(writing)

    assert (child.returncode, child.stderr) == (0, "")


def test_threads_are_told_to_wait_quietly_unless_the_user_says_otherwise(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    run("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "passive"

    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    run("--version")
    assert os.environ["OMP_WAIT_POLICY"] == "active"


@pytest.mark.parametrize("module", TORCH_FREE)
def test_a_client_needs_no_torch(module: str) -> None:
    imported = _python(f"{BLOCK}import {module}")

    assert imported.returncode == 0, imported.stderr


def test_a_misspelt_variable_stops_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COROLLA_STROE", "somewhere")
    assert command.run(["adapters", "list"]) == 2
    assert "did you mean COROLLA_STORE?" in capsys.readouterr().err
    monkeypatch.delenv("COROLLA_STROE")
    monkeypatch.setenv("COROLLA_PORT", "1")  # the server's own
    assert command.run(["--version"]) == 0
