import json
from pathlib import Path

import pytest

from benchmarks import merges

pytestmark = pytest.mark.benchmarks


def test_it_ends_with_the_accuracy_of_every_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(merges, "CHOOSING", 20)
    monkeypatch.setattr(merges, "LEARNERS", merges.LEARNERS[:2])
    monkeypatch.setattr(merges, "GROUPS", {"ranks": ("lora-4", "lora-8")})
    monkeypatch.setattr(merges, "MADE", {k: merges.MADE[k] for k in ("uniform", "ties-r16")})
    tiny = ["--backbone", "random:test_vit", "--image-size", "32", "--epochs", "1", "--limit", "40"]

    merges.main([*tiny, "--judged", "20", "--folder", str(tmp_path)])

    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "merges"
    for name in ("ranks_digits", "ranks_mnist"):
        members = {"best member", "member lora-4", "member lora-8"}
        assert found[name].keys() == members | {"uniform", "ties-r16", "lines", "ensemble"}
        assert all(0 <= accuracy <= 1 for accuracy in found[name].values())
