"""The commands as people type them, in this process."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from corolla import command
from model_store.store import Store
from tests.model_store.real import CLASSES, Real
from tests.petl_vit.backbones import relative


class Shell:
    def __init__(self, real: Real, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.real, self.folder, self._capsys = real, folder, capsys

    def __call__(self, *words: object) -> str:
        """What a command that succeeds says."""
        code, out, err = self._run(*words)
        assert code == 0, err
        return out

    def refused(self, *words: object) -> str:
        code, out, err = self._run(*words)
        assert (code, out) == (2, ""), (code, out, err)
        return err

    def document(self, *words: object) -> Any:
        return json.loads(self(*words, "--json"))

    def _run(self, *words: object) -> tuple[int, str, str]:
        self._capsys.readouterr()
        code = command.run(["adapters", *map(str, words)])
        said = self._capsys.readouterr()
        return code, said.out, said.err


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("COROLLA_STORE", str(tmp_path / "store"))
    real = Real(Store.open(str(tmp_path / "store")))
    for method in ("lora", "repadapter", "vpt_deep"):
        real.publish(method)
    return Shell(real, tmp_path, capsys)


def test_a_model_is_folded_into_a_file(shell: Shell) -> None:
    out = shell.folder / "new" / "both.safetensors"
    said = shell("fold", "0.5*lora + 0.5*repadapter", "--task", "zoo", "--out", out)
    assert said == f"0.5*lora:1 + 0.5*repadapter:1 is in {out}\n"
    model = shell.real.timm()
    model.load_state_dict(safetensors.torch.load(out.read_bytes()))
    found = model(shell.real.images).detach()
    assert relative(found, shell.real.logits("0.5*lora + 0.5*repadapter")) <= 1e-4
    assert "exists" in shell.refused("fold", "lora", "--out", out)
    document = shell.document("fold", "lora@latest", "--alpha", "0.4", "--out", out, "--overwrite")
    assert (document["route"], document["task"]) == ("0.4*lora:1", "zoo")


def test_what_cannot_be_folded_is_refused_in_one_sentence(shell: Shell) -> None:
    out = shell.folder / "x.safetensors"
    assert "vpt-deep:1 (vpt_deep) cannot become plain weights" in shell.refused(
        "fold", "vpt-deep", "--out", out
    )
    assert "--extrapolate" in shell.refused("fold", "lora", "--alpha", "2", "--out", out)
    assert "no adapter 'lroa'" in shell.refused("fold", "lroa", "--out", out)
    assert not out.exists()


def test_an_archive_leaves_one_store_and_enters_another(shell: Shell) -> None:
    out = shell.folder / "lora.corolla"
    shell("export", "lora:1", "--task", "zoo", "--format", "archive", "--out", out)
    assert "is registered already" in shell("import", out, "--format", "archive")
    other = shell.folder / "other"
    away = ("--store", other)
    assert "which is not in this store" in shell.refused("import", out, "--format", "archive", *away)
    real = shell.real
    Store.open(str(other)).backbones.put(
        "b", real.backbone.config, real.store.backbones.load(real.backbone), "copy"
    )
    assert shell("import", out, "--format", "archive", *away).startswith("zoo/lora:1 is registered, digest ")
    document = shell.document("import", out, "--format", "archive", *away)
    assert (document["known"], document["name"]) == (True, "lora")
    assert "leave it out" in shell.refused("import", out, "--format", "archive", "--backbone", "b", *away)


def test_an_adapter_goes_to_peft_and_timm_and_back(shell: Shell) -> None:
    folder, file = shell.folder / "peft", shell.folder / "lora.safetensors"
    shell("export", "lora", "--format", "peft", "--out", folder)
    shell("export", "lora", "--format", "timm", "--out", file)
    classes = shell.folder / "classes.txt"
    classes.write_text("\n".join(CLASSES))
    shell("import", folder, "--format", "peft", "--name", "a", "--classes", classes)
    shell(
        "import",
        file,
        "--format",
        "timm",
        "--task",
        "zoo",
        "--name",
        "b",
        "--backbone",
        shell.real.backbone.name,
    )
    expected = shell.real.logits("lora")
    assert relative(shell.real.logits("a"), expected) <= 1e-5
    assert relative(shell.real.logits("b"), expected) <= 1e-4
    assert "--name" in shell.refused("import", folder, "--format", "peft")
    assert "does not exist" in shell.refused("import", shell.folder / "absent", "--format", "archive")


@pytest.mark.parametrize("kind", ["timm", "peft", "petl-vision"])
def test_a_file_whose_name_is_not_utf_8_is_refused_as_that(shell: Shell, kind: str) -> None:
    file = shell.folder / "caf\udce9.safetensors"
    file.write_bytes(b"x")
    refused = shell.refused("import", file, "--format", kind, "--task", "zoo", "--name", "a")
    assert "caf\\xe9.safetensors is not UTF-8, so it cannot be recorded; rename it" in refused


def test_a_version_is_deleted_and_says_what_latest_is(shell: Shell) -> None:
    assert "names no version; write one of lora:1" in shell.refused("delete", "lora")
    assert shell("delete", "lora:1", "--task", "zoo", "--yes") == (
        "zoo/lora:1 is deleted\nno version remains; the number 1 is not used again\n"
    )
    shell.real.publish("repadapter", seed=3)
    shell("alias", "repadapter", "prod", "2")
    assert "alias 'prod'" in shell.refused("delete", "repadapter:2", "--yes")
    assert shell.document("delete", "repadapter:1") == {"deleted": "zoo/repadapter:1", "latest": 2}


def test_a_delete_is_asked_for(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("click.confirm", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command.run(["adapters", "delete", "lora:1"]) == 2  # nobody there to ask
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert command.run(["adapters", "delete", "lora:1"]) == 130
    assert shell.real.store.adapters.versions("zoo", "lora") == [1]
