"""`.ci/image`: what it leaves behind, with a buildah that pretends; the real image, where it is asked for."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "image"
FREE_BYTES = 25 * 2**30
TIME_S = 3600

# Its containers and its one image are files in a folder.
BUILDAH = """#!/usr/bin/env bash
echo "$@" >> "$STATE/calls"
case "$1" in
    inspect) [ -e "$STATE/image" ] ;;
    pull) exit 1 ;;
    from) name=container-$RANDOM; touch "$STATE/$name"; echo "$name" ;;
    add) [ "${FAILS:-}" != add ] ;;
    commit) echo "$5" > "$STATE/image"; rm "$STATE/$4" ;;
    build) [ "${FAILS:-}" != build ] || exit 7 ;;
    run) [ "${FAILS:-}" != run ] ;;
    rm) rm "$STATE/$2" ;;
    rmi) grep -qx "$3" "$STATE/image" && rm "$STATE/image" ;;
esac
"""


def reason_against() -> str | None:
    """Why the image is not built here; None where it is."""
    if not os.environ.get("BUILD_IMAGE"):
        return "BUILD_IMAGE=1 is not set, which takes root, buildah, 25 GB and five minutes (CONTRIBUTING.md)"
    if os.geteuid() != 0:
        return "only root can build the image"
    if shutil.which("buildah") is None:
        return "buildah is not installed"
    free = shutil.disk_usage("/var").free
    return None if free >= FREE_BYTES else f"25 GB are needed in /var, {free / 1e9:.0f} GB are free"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The images and containers of a buildah that pretends, in place of the real one."""
    tools, state, temporary = (tmp_path / name for name in ("tools", "state", "tmp"))
    for folder in (tools, state, temporary):
        folder.mkdir()
    for name, text in (("buildah", BUILDAH), ("debootstrap", "#!/bin/sh\n")):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    monkeypatch.setenv("STATE", str(state))
    monkeypatch.setenv("TMPDIR", str(temporary))
    return state


@pytest.mark.parametrize(("step", "code"), [("add", 1), ("build", 7), ("run", 1), ("nothing", 0)])
def test_nothing_is_left_under_the_name_of_the_base_image(
    state: Path, step: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", step)
    done = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert [file.name for file in state.iterdir()] == ["calls"]
    assert list((state.parent / "tmp").iterdir()) == []


@pytest.mark.parametrize(("step", "code"), [("build", 7), ("nothing", 0)])
def test_a_base_image_that_was_there_stays(
    state: Path, step: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (state / "image").touch()
    monkeypatch.setenv("FAILS", step)
    assert subprocess.run([SCRIPT], capture_output=True, timeout=60).returncode == code
    assert sorted(file.name for file in state.iterdir()) == ["calls", "image"]


def test_the_image_is_built_and_serves_as_a_user_without_rights() -> None:
    if (reason := reason_against()) is not None:
        pytest.skip(reason)
    arguments = shlex.split(os.environ.get("ARGS", ""))
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=TIME_S)
    assert done.returncode == 0, f"{done.stdout[-5000:]}\n{done.stderr[-5000:]}"
    assert "runs as user 10001, serves and says so" in done.stdout
