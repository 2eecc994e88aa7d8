"""Zero-shot tasks from files and from open_clip, through the command that people type."""

import json
import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from corolla.commands.tasks import tasks
from model_store.format.records import BackboneRecord, Draft, TaskRecord
from model_store.resolution.loading import Loader
from model_store.resolution.versions import resolve
from model_store.routes.text import parse_route
from model_store.sources import backbones, zero_shot
from model_store.store import Store
from petl_vit.errors import Conflict, CorollaError, Corrupt, InvalidInput, NotFound, Unsupported
from petl_vit.heads import ClipHead, LinearHead

CLASSES = ("cat", "dog", "Äffchen")
WIDTH, SHARED = 192, 6


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture
def backbone(store: Store) -> BackboneRecord:
    request = backbones.Request(image_size=32, options={"depth": 1})
    found = backbones.read("random:vit_tiny_patch16_224", request)
    return store.backbones.put("tiny", found.config, found.tensors, found.source)


def arrays() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "class_embeddings": torch.randn(3, SHARED, generator=generator),
        "projection": torch.randn(WIDTH, SHARED, generator=generator),
    }


def written(folder: Path, suffix: str = ".safetensors", **changes: Any) -> Path:
    """A file of embeddings; a change to None leaves an entry out."""
    path = folder / f"embeddings{suffix}"
    entries = {name: value for name, value in (arrays() | changes).items() if value is not None}
    if suffix == ".npz":
        np.savez(path, **{name: np.asarray(value) for name, value in entries.items()})
    else:
        safetensors.torch.save_file(entries, path)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    path = tmp_path / "classes.txt"
    path.write_text("\n".join([*CLASSES, ""]) + "\n", encoding="utf-8")
    return path


def imported(store: Store, *words: str, name: str = "pets") -> dict[str, Any]:
    arguments = ["import", name, "--backbone", "tiny", "--store", str(store), "--json", *map(str, words)]
    result = CliRunner().invoke(tasks, arguments, standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def expected_weight(embeddings: Tensor, factor: float) -> Tensor:
    return factor * embeddings / embeddings.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_file_of_embeddings_becomes_the_tasks_base_head(
    store: Store, backbone: BackboneRecord, classes: Path, tmp_path: Path, suffix: str
) -> None:
    path = written(tmp_path, suffix)
    document = imported(store, "--embeddings", str(path), "--classes", str(classes))
    task = store.tasks.get("pets", backbone.digest)
    assert document["digest"] == task.digest
    assert task.spec.classes == CLASSES
    assert task.spec.preprocess.image_size == 32
    assert (task.spec.preprocess.mean, task.spec.preprocess.std) == (
        backbone.config.mean,
        backbone.config.std,
    )
    head = Loader(store, backbone).base_head(task)
    assert isinstance(head, ClipHead)
    assert torch.equal(head.projection, arrays()["projection"])
    assert torch.allclose(head.weight, expected_weight(arrays()["class_embeddings"], 100.0), rtol=1e-6)
    assert torch.equal(head.bias, torch.zeros(3))


def test_an_npz_names_its_classes_and_its_scale(
    store: Store, backbone: BackboneRecord, tmp_path: Path
) -> None:
    path = written(tmp_path, ".npz", classes=np.array(CLASSES), logit_scale=np.float32(math.log(50)))
    imported(store, "--embeddings", str(path))
    task = store.tasks.get("pets", backbone.digest)
    assert task.spec.classes == CLASSES
    weight = store.tasks.load_base_head(task)["head.weight"]
    assert torch.allclose(weight.norm(dim=1), torch.tensor(50.0))


def test_input_and_normalisation_can_be_chosen(
    store: Store, backbone: BackboneRecord, classes: Path, tmp_path: Path
) -> None:
    words = ["--embeddings", str(written(tmp_path)), "--classes", str(classes), "--image-size", "48"]
    words += ["--resize", "crop", "--mean", "0.1", "0.2", "0.3", "--std", "0.4", "0.5", "0.6"]
    imported(store, *words)
    preprocess = store.tasks.get("pets", backbone.digest).spec.preprocess
    assert (preprocess.image_size, preprocess.resize) == (48, "crop")
    assert (preprocess.mean, preprocess.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_the_same_import_again_is_the_same_task_and_another_one_under_its_name_is_refused(
    store: Store, backbone: BackboneRecord, classes: Path, tmp_path: Path
) -> None:
    words = ["--embeddings", str(written(tmp_path)), "--classes", str(classes)]
    first = imported(store, *words)
    assert imported(store, *words) == first
    written(tmp_path, logit_scale=torch.tensor(1.0))
    with pytest.raises(Conflict, match="different base head"):
        imported(store, *words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection": None}, "lacks projection"),
        ({"class_embeddings": None}, "lacks class_embeddings"),
        ({"text_weights": torch.zeros(2)}, "has an unknown text_weights"),
        ({"class_embeddings": torch.ones(4, SHARED)}, "there are 3 classes; save one row for each class"),
        ({"class_embeddings": torch.ones(3)}, r"class_embeddings has shape \(3,\)"),
        ({"projection": arrays()["projection"].T.contiguous()}, "transpose it"),
        ({"projection": torch.ones(384, SHARED)}, "projection of this very backbone"),
        ({"projection": torch.ones(WIDTH, 5)}, r"\(192, 5\) instead of \(192, 6\)"),
        ({"logit_scale": torch.tensor(100.0)}, "save the logarithm"),
        ({"logit_scale": torch.tensor(math.nan)}, "save the logarithm"),
        ({"logit_scale": torch.ones(3)}, "not one number"),
        ({"class_embeddings": torch.full((3, SHARED), math.nan)}, "class_embeddings holds NaN"),
        ({"projection": torch.full((WIDTH, SHARED), math.inf)}, "projection holds NaN or an infinity"),
        ({"class_embeddings": torch.eye(3, SHARED) * torch.tensor([[1.0], [0.0], [1.0]])}, "'dog' is zero"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_nothing_is_stored(
    store: Store,
    backbone: BackboneRecord,
    classes: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(InvalidInput, match=message) as refused:
        imported(store, "--embeddings", str(path), "--classes", str(classes))
    assert refused.value.field == "embeddings"
    assert refused.value.remedy
    assert store.tasks.list() == []


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def _single(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def _foreign(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("class_embeddings.npy", b"these are no numbers")
        file.writestr("projection.npy", b"nor are these")


def _pickled(path: Path) -> None:
    np.savez(path, class_embeddings=np.array([object()]), projection=np.zeros(2))


def _worded(path: Path) -> None:
    np.savez(path, class_embeddings=np.array(["a"]), projection=np.zeros(2))


def _renamed(path: Path) -> None:
    np.savez(path, **{n: t.numpy() for n, t in arrays().items()}, classes=np.arange(3))


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".safetensors", _truncated, "not a whole safetensors"),
        (".npz", _truncated, "not a whole npz"),
        (".npz", _single, "not a whole npz"),
        (".npz", _foreign, "class_embeddings is an array of"),
        (".npz", _pickled, "without pickle"),
        (".npz", _worded, "class_embeddings is an array of"),
        (".npz", _renamed, "classes is an array of int64"),
    ],
)
def test_a_damaged_file_is_refused(
    store: Store,
    backbone: BackboneRecord,
    classes: Path,
    tmp_path: Path,
    suffix: str,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    path = written(tmp_path, suffix)
    damage(path)
    with pytest.raises(InvalidInput, match=message):
        imported(store, "--embeddings", str(path), "--classes", str(classes))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ([], InvalidInput, "embeddings: neither embeddings nor an open_clip model; give one of the two"),
        (
            ["--embeddings", "FILE", "--open-clip", "a:b"],
            InvalidInput,
            "both embeddings and an open_clip model",
        ),
        (
            ["--embeddings", "FILE"],
            InvalidInput,
            "classes: embeddings.safetensors does not name its classes",
        ),
        (
            ["--embeddings", "FILE", "--template", "{}"],
            InvalidInput,
            "templates: embeddings are made already",
        ),
        (["--embeddings", "none.npz", "--classes", "TEXT"], NotFound, "'none.npz' is not a file"),
        (["--embeddings", "TEXT", "--classes", "TEXT"], InvalidInput, "neither .safetensors nor .npz"),
        (["--embeddings", "FILE", "--classes", "none.txt"], NotFound, "classes: 'none.txt' is not a file"),
        (["--embeddings", "FILE", "--classes", "FILE"], InvalidInput, "not UTF-8"),
        (["--embeddings", "FILE", "--classes", "TEXT", "--image-size", "40"], InvalidInput, "use 32|use 48"),
        (["--embeddings", "FILE", "--classes", "TEXT", "--std", "0", "1", "1"], InvalidInput, "std: "),
        (["--open-clip", "ViT-B-16:openai"], InvalidInput, "classes: open_clip needs class names"),
        (["--open-clip", "ViT-B-16", "--classes", "TEXT"], InvalidInput, "not MODEL:PRETRAINED"),
        (
            ["--open-clip", "a:b", "--classes", "TEXT", "--template", "a photo"],
            InvalidInput,
            "write {} where",
        ),
        (["--backbone", "tinny", "--embeddings", "FILE"], NotFound, "no backbone 'tinny'; did you mean tiny"),
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(
    store: Store,
    backbone: BackboneRecord,
    classes: Path,
    tmp_path: Path,
    words: list[str],
    error: type[CorollaError],
    message: str,
) -> None:
    named = {"FILE": str(written(tmp_path)), "TEXT": str(classes)}
    with pytest.raises(error, match=message):
        imported(store, *(named.get(word, word) for word in words))
    assert store.tasks.list() == []


def test_an_npz_with_classes_refuses_a_second_list(
    store: Store, backbone: BackboneRecord, classes: Path, tmp_path: Path
) -> None:
    path = written(tmp_path, ".npz", classes=np.array(CLASSES))
    with pytest.raises(InvalidInput, match="names its classes itself; leave it out"):
        imported(store, "--embeddings", str(path), "--classes", str(classes))


def test_class_names_appear_once(store: Store, backbone: BackboneRecord, tmp_path: Path) -> None:
    path = written(tmp_path, ".npz", classes=np.array(["cat", "dog", "cat"]))
    with pytest.raises(InvalidInput, match="twice: cat"):
        imported(store, "--embeddings", str(path))


def test_an_adapter_with_a_linear_head_is_refused_for_a_zero_shot_task(
    store: Store, backbone: BackboneRecord, classes: Path, tmp_path: Path
) -> None:
    imported(store, "--embeddings", str(written(tmp_path)), "--classes", str(classes))
    task = store.tasks.get("pets", backbone.digest)
    loader = Loader(store, backbone)
    for name, head in (
        ("whole", loader.base_head(task)),
        ("other", LinearHead.init(3, WIDTH, torch.Generator())),
    ):
        store.adapters.publish(_draft(task, name), head.tensors())
    assert _loaded(loader, "whole").title == "CLIP"
    with pytest.raises(Corrupt, match=r"pets/other:1 cannot be loaded: its head is of the linear kind"):
        _loaded(loader, "other")


def _draft(task: TaskRecord, name: str) -> Draft:
    return Draft.of(
        task="pets",
        name=name,
        method="linear",
        config={},
        backbone_digest=task.spec.backbone_digest,
        task_digest=task.digest,
    )


def _loaded(loader: Loader, route: str) -> Any:
    found = resolve(parse_route(route), task="pets", store=loader.store, backbone_digest=loader.record.digest)
    return loader.adapter(next(iter(found.terms()))).head


# open_clip, which is a large peer: its few functions that are used, with a text model of one line


class FakeText:
    """Embeds a text as the counts of six letters."""

    def __init__(self, visual: object) -> None:
        self.visual = visual
        self.logit_scale = torch.tensor(math.log(10))
        self.texts: list[str] = []

    def eval(self) -> "FakeText":
        return self

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens

    def tokenize(self, texts: list[str]) -> Tensor:
        self.texts += texts
        return torch.tensor([[float(text.count(letter)) for letter in "adgcto"] for text in texts])


def _with_open_clip(monkeypatch: pytest.MonkeyPatch, visual: object) -> FakeText:
    network = FakeText(visual)

    def create(model: str, pretrained: str) -> FakeText:
        if model != "ViT-B-16":
            raise RuntimeError(f"Model config for {model} not found")
        return network

    module = SimpleNamespace(create_model=create, get_tokenizer=lambda model: network.tokenize)
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return network


def test_open_clip_makes_the_classifier_from_the_mean_of_the_templates(
    store: Store, backbone: BackboneRecord, classes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = _with_open_clip(monkeypatch, SimpleNamespace(proj=nn.Parameter(arrays()["projection"])))
    words = ["--open-clip", "ViT-B-16:openai", "--classes", str(classes)]
    imported(store, *words, "--template", "a {}", "--template", "{} dog")
    assert network.texts[:2] == ["a cat", "cat dog"]
    rows = []
    for name in CLASSES:
        each = network.tokenize([f"a {name}", f"{name} dog"])
        rows.append((each / each.norm(dim=1, keepdim=True)).mean(dim=0))
    head = store.tasks.load_base_head(store.tasks.get("pets", backbone.digest))
    assert torch.allclose(head["head.weight"], expected_weight(torch.stack(rows), 10.0), atol=1e-5)
    assert torch.equal(head["head.projection"], arrays()["projection"])


def test_without_templates_open_clip_is_asked_for_a_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    network = _with_open_clip(monkeypatch, SimpleNamespace(proj=arrays()["projection"]))
    zero_shot.from_open_clip("ViT-B-16:openai", ("cat", "dog"), width=WIDTH)
    assert network.texts == ["a photo of a cat.", "a photo of a dog."]


def test_timms_towers_within_open_clip_have_a_linear_projection_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    linear = nn.Linear(WIDTH, SHARED, bias=False)
    _with_open_clip(monkeypatch, SimpleNamespace(head=nn.Sequential(nn.Dropout(0.1), linear)))
    found = zero_shot.from_open_clip("ViT-B-16:x", ("cat", "dog"), width=WIDTH)
    assert torch.equal(found.head.projection, linear.weight.detach().T)
    _with_open_clip(monkeypatch, SimpleNamespace(head=nn.Sequential()))
    plain = zero_shot.from_open_clip("ViT-B-16:x", ("cat", "dog"), width=SHARED)
    assert torch.equal(plain.head.projection, torch.eye(SHARED))
    for visual in (SimpleNamespace(), SimpleNamespace(head=nn.Sequential(nn.Linear(WIDTH, SHARED)))):
        _with_open_clip(monkeypatch, visual)
        with pytest.raises(Unsupported, match="no linear projection"):
            zero_shot.from_open_clip("ViT-B-16:x", ("cat", "dog"), width=WIDTH)


def test_what_open_clip_cannot_load_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _with_open_clip(monkeypatch, SimpleNamespace())
    with pytest.raises(CorollaError, match=r"cannot load ViT-Q:x \(Model config for ViT-Q not found\)"):
        zero_shot.from_open_clip("ViT-Q:x", CLASSES, width=WIDTH)


def test_without_open_clip_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(Unsupported, match=r"open_clip is not installed; .*open_clip_torch.*--embeddings"):
        zero_shot.from_open_clip("ViT-B-16:openai", CLASSES, width=WIDTH)
