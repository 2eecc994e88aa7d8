"""A real PostgreSQL: a cluster of its own in a temporary folder, reached through a socket there."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import pytest

FETCHED = Path(__file__).parent.parent / ".venv" / "postgresql"
_SETTINGS = ("-h ''", "-c fsync=off", "-c shared_buffers=16MB", "-c max_connections=20")


def _programs() -> Path:
    """The folder of `initdb` and `pg_ctl`; skips the test where there is none."""
    on_path = shutil.which("initdb")
    if on_path is not None and (Path(on_path).resolve().parent / "pg_ctl").exists():
        return Path(on_path).resolve().parent
    for root in (Path("/"), FETCHED):
        for folder in sorted((root / "usr/lib/postgresql").glob("*/bin"), reverse=True):
            if (folder / "initdb").exists():
                return folder
    pytest.skip("PostgreSQL is not installed, and .ci/postgresql, which `make test` runs, could not fetch it")


class Postgresql:
    """A cluster without a network port; it starts with the block and is gone after it.

    PostgreSQL does not run as root, so root lends the folder to `nobody`.
    """

    def __init__(self) -> None:
        self._programs = _programs()
        self._folder = Path(tempfile.mkdtemp(prefix="corolla-pg-"))
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            user = pwd.getpwnam("nobody")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def url(self, database: str = "postgres") -> str:
        """The URL of a database, for the superuser."""
        return f"postgresql://corolla@/{database}?host={quote(str(self._folder))}"

    def make(self, database: str) -> str:
        """Makes an empty database and returns its URL."""
        self._run("createdb", "-h", str(self._folder), "-U", "corolla", database)
        return self.url(database)

    def stop(self) -> None:
        """Ends the server at once, as a crash of its machine would."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def start(self) -> None:
        """Starts it again."""
        options = " ".join([*_SETTINGS, f"-k {self._folder}"])
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", log, "-w", "start")

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _run(self, program: str, *words: str) -> None:
        libraries = FETCHED / "usr/lib" / f"{os.uname().machine}-linux-gnu"
        subprocess.run(
            [str(self._programs / program), *words],
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "LD_LIBRARY_PATH": str(libraries)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=True,
            **self._as,
        )

    def __enter__(self) -> Self:
        try:
            self._run("initdb", "-D", self._data, "-U", "corolla", "-A", "trust", "-N", "-E", "UTF8")
            self.start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._folder)
