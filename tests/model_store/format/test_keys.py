import pytest

from model_store.format import keys
from petl_vit.errors import InvalidInput

DIGEST = "a" * 64


def test_a_key_is_made_of_checked_names_only() -> None:
    assert keys.adapter("digits", "lora", 3, "manifest.json") == "adapters/digits/lora/3/manifest.json"
    assert keys.task("digits", DIGEST, "task.json") == f"tasks/digits/{DIGEST}/task.json"
    for make in (
        lambda: keys.adapter("..", "lora", 1, "manifest.json"),
        lambda: keys.adapter("digits", "base", 1, "manifest.json"),
        lambda: keys.alias("digits", "lora", "a/b"),
        lambda: keys.backbone("../escape", "backbone.json"),
        lambda: keys.route("digits", ""),
    ):
        with pytest.raises(InvalidInput):
            make()


def test_names_come_back_from_listed_keys_and_foreign_files_are_ignored() -> None:
    listed = [
        keys.backbone(DIGEST, "backbone.json"),
        keys.task("digits", DIGEST, "task.json"),
        keys.adapter("digits", "lora", 2, "manifest.json"),
        keys.adapter("digits", "lora", 2, "adapter.safetensors"),
        keys.route("digits", "both"),
        "adapters/digits/lora/02/manifest.json",
        "adapters/digits/lora/20260102030405/manifest.json",
        "adapters/digits/lora/2147483648/manifest.json",
        "adapters/digits/lora/1\u0662/manifest.json",  # a digit of another script
        f"adapters/digits/lora/2147483648/signatures/{DIGEST}.json",
        keys.signature("digits", "lora", 2, DIGEST),
        "adapters/digits/README.md",
        "routes/digits/.DS_Store",
        f"tasks/Digits/{DIGEST}/task.json",
    ]
    assert keys.backbones_in(listed) == [DIGEST]
    assert keys.tasks_in(listed) == [("digits", DIGEST)]
    assert keys.versions_in(listed, r"manifest\.json") == [("digits", "lora", 2)]
    assert keys.signatures_in(listed) == [f"adapters/digits/lora/2/signatures/{DIGEST}.json"]
    assert keys.routes_in(listed) == [("digits", "both")]
    assert keys.aliases_in([keys.alias("digits", "lora", "prod"), "aliases/digits/lora/.x"]) == ["prod"]
