"""Commands as people type them, in this process: exit code, stdout, stderr."""

import json
from pathlib import Path
from typing import Any

import pytest

from corolla import command

QUICK = ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--measure-precision", "fp32"]


class Shell:
    """Types commands into one store and reads what they say."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = command.run(arguments)
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def train(self, method: str = "lora", *more: str, data: str = "digits") -> tuple[int, str, str]:
        limit = ["--limit", "60"] if data == "digits" else []
        return self("train", method, "--data", data, "--task", "digits", *limit, *QUICK, *more)

    def document(self, *arguments: str) -> Any:
        code, out, err = self(*arguments)
        assert code == 0, err
        return json.loads(out)

    def refused(self, *arguments: str) -> str:
        """The one sentence that a refused command says."""
        code, out, err = self(*arguments)
        assert (code, out) == (2, ""), (code, out, err)
        lines = [line for line in err.splitlines() if line.startswith("corolla: ")]
        assert len(lines) == 1
        assert err.splitlines()[-1] == lines[0]
        assert "Traceback" not in err
        assert not lines[0].startswith("corolla: unexpected")
        return lines[0]
