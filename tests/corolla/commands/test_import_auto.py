"""`corolla adapters import` without a format says what was found, what it became and what was left out."""

import json
from pathlib import Path

import pytest
import torch

import corolla
from corolla import command
from model_store.store import Store
from petl_vit.errors import InvalidInput
from tests.model_store.interchange.peft_folders import WIDTH, lora, qkv
from tests.model_store.real import Real

POOLER = {f"vit.pooler.dense.lora_{kind}.weight": torch.ones(2, 2) for kind in "AB"}
MODULES = [f"vit.layers.{i}.attention.{name}_proj" for i in range(2) for name in "qkv"]


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Real:
    monkeypatch.setenv("COROLLA_STORE", str(tmp_path / "store"))
    return Real(Store.open(str(tmp_path / "store")))


def test_a_folder_of_transformers_says_what_it_became(
    real: Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lora(tmp_path / "a", MODULES, outputs=WIDTH, head="classifier", more=POOLER)
    assert command.run(["adapters", "import", str(folder), "--name", "theirs"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("zoo/theirs:1 is registered, digest ")
    lines = said.err.splitlines()
    assert lines[:2] == [
        "found: a folder of PEFT, LORA",
        "becomes: the method lora: 2 LowRank at attn.qkv",
    ]
    assert lines[2].startswith("left out: vit.pooler.dense")
    assert any(line.startswith("note: LoRAs of queries, keys and values") for line in lines)


def test_programs_get_the_same_as_json(
    real: Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lora(tmp_path / "a", MODULES, outputs=WIDTH, head="classifier", more=POOLER)
    words = ["adapters", "import", str(folder), "--name", "theirs", "--head", "base", "--json"]
    assert command.run(words) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["format"], document["found"]) == ("peft", "a folder of PEFT, LORA")
    assert document["edits"] == [{"edit": "LowRank", "site": "attn.qkv", "count": 2}]
    assert len(document["left_out"]) == 2
    assert document["left_out"][0] == "its head, for the one that --head names"


def test_every_format_is_found(real: Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real.publish("lora")
    for kind, name in (("archive", "x"), ("timm", "y"), ("peft", "z")):
        out = str(tmp_path / name)
        assert command.run(["adapters", "export", "lora", "--format", kind, "--out", out]) == 0
        capsys.readouterr()
        assert command.run(["adapters", "import", out, "--name", f"from-{name}"]) == 0
        said = capsys.readouterr().err
        assert {"archive": "an archive", "timm": "a whole checkpoint", "peft": "a folder of PEFT"}[
            kind
        ] in said
    assert torch.equal(real.logits("from-x"), real.logits("lora"))
    assert torch.allclose(real.logits("from-z"), real.logits("lora"), atol=1e-5)


def test_a_head_is_not_for_other_formats(
    real: Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"head.weight": torch.ones(5, WIDTH)}, tmp_path / "x.pt")
    assert command.run(["adapters", "import", str(tmp_path / "x.pt"), "--name", "a", "--head", "base"]) == 2
    assert "head: --format timm has no use for it; leave it out" in capsys.readouterr().err


def test_programs_import_an_adapter_too(real: Real, tmp_path: Path) -> None:
    folder = qkv(tmp_path / "a", head=None)
    with corolla.Store(str(tmp_path / "store")) as store:
        imported = store.import_adapter(folder, name="theirs", task="zoo", head="base")
        assert (imported.kind, imported.known, imported.left_out) == ("peft", False, ())
        assert [str(edit) for edit in imported.edits] == ["2 LowRank at attn.qkv"]
        assert store.import_adapter(folder, name="theirs", task="zoo", head="base").known
        with pytest.raises(InvalidInput, match="needs a name"):
            store.import_adapter(folder, task="zoo")
        with pytest.raises(InvalidInput, match=r"kind: .*archive, timm, peft, petl-vision, auto"):
            store.import_adapter(folder, name="theirs", task="zoo", kind="lora")
