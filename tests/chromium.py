"""A real Chromium for tests: the system's, or the one that `.ci/chromium` put beside the packages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FETCHED = Path(__file__).parent.parent / ".venv" / "chromium"
CUT_OFF = Path(__file__).with_name("cut_off.js").read_text()
"""A script whose value is all text of a page that is not wholly visible."""
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


@contextmanager
def chromium() -> Iterator["Browser"]:
    """A running browser; skips the test where there is none."""
    path, environment = _program()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=FLAGS, env={**os.environ, **environment}
        )
        yield browser
        browser.close()


def _program() -> tuple[str, dict[str, str]]:
    """Its path, and the variables that it needs."""
    found = shutil.which("chromium")
    if found is not None:
        return found, {}
    own = FETCHED / "usr/lib/chromium/chromium"
    if not own.exists():
        pytest.skip(
            "chromium is not installed, and .ci/chromium, which `make test` runs, could not fetch it: "
            "install Debian's package chromium"
        )
    machine = list((FETCHED / "usr/lib").glob("*-linux-gnu*"))
    # PulseAudio has a library of its own in a folder that is known by its place in the system alone.
    libraries = [str(folder) for folder in (*machine, *(folder / "pulseaudio" for folder in machine))]
    return str(own), {
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "FONTCONFIG_FILE": str(FETCHED / "fonts.conf"),
    }
