"""Images that cannot be used, in every command that reads labelled images, and in a program."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import corolla
from petl_vit.errors import InvalidInput
from tests.corolla.shell import QUICK, Shell

TASK = ["--task", "shapes"]


@pytest.fixture
def photos(shell: Shell) -> str:
    """Two classes of six images, of which one is damaged and one is very large, and a note."""
    root = shell.folder / "photos"
    for label, name in enumerate(("dark", "light")):
        (root / name).mkdir(parents=True)
        for i in range(6):
            pixels = np.full((40, 40, 3), 200 * label + i, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    (root / "dark" / "1.png").write_bytes(b"no image")
    Image.new("RGB", (300, 200)).save(root / "light" / "2.png")
    (root / "notes.txt").write_text("about these photos")
    return str(root)


def test_every_command_names_all_bad_images_or_goes_on_without_them(shell: Shell, photos: str) -> None:
    limit = ["--data", photos, "--max-pixels", "50000"]
    fp32 = ["--device", "cpu", "--precision", "fp32"]
    commands = (
        ["train", "lora", *limit, *TASK, *QUICK],
        ["train", "ssf", *limit, *TASK, *QUICK],
        ["tasks", "refit-head", "shapes", *limit, "--limit", "4", "--device", "cpu"],
        ["evaluate", *limit, *TASK, "--route", "lora", *fp32],
        ["adapters", "soup", *limit, *TASK, "--members", "lora, ssf", "--name", "soup", *fp32],
    )
    for command in commands:
        said = shell.refused(*command)
        assert f"--data: 2 of 12 images in {photos} cannot be used: " in said
        assert "dark/1.png: the bytes are not an image" in said
        assert "light/2.png: the image is too large (300 x 200" in said
        code, _, err = shell(*command, "--skip-bad")
        assert code == 0, err
        assert f"left out of {photos}: not an image: 1 (notes.txt); the bytes are not" in err
    assert shell("routes", "put", "best", "lora", *TASK)[0] == 0
    assert "2 of 12 images" in shell.refused("routes", "fit", "best", *limit, *TASK, *fp32)
    manifest = shell.document("adapters", "show", "lora", *TASK, "--json")
    assert manifest["training"]["images"] + manifest["training"]["heldout_images"] == 10
    counts = {
        "not an image": 1,
        "the bytes are not an image of a known format": 1,
        "the image is too large": 1,
    }
    assert manifest["training"]["left_out"] == counts
    (evaluated,) = shell.document(*commands[3], "--skip-bad", "--json")["sets"]
    assert (evaluated["images"], evaluated["left_out"]) == (10, counts)


def test_a_program_skips_bad_images_and_limits_pixels(shell: Shell, photos: str, tmp_path: Path) -> None:
    with corolla.Store(tmp_path / "store", max_pixels=50_000, precision="fp32", device="cpu") as store:
        with pytest.raises(InvalidInput, match="2 of 12 images"):
            store.train("lora", data=photos, task="shapes")
        options = {"epochs": 1, "skip_bad": True, "runs": tmp_path / "runs"}
        manifest = store.train("lora", data=photos, task="shapes", **options)  # type: ignore[arg-type]
        assert sum(manifest.training["left_out"].values()) == 3  # type: ignore[union-attr]
        (row,) = store.evaluate("lora", data=photos, skip_bad=True)
        assert (row.images, sum(row.left_out.values())) == (10, 3)
        (large,) = store.classify([f"{photos}/light/2.png"], route="lora")
        assert "too large" in str(large.error)
