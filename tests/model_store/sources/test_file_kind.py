"""Files of weights are known by their first bytes, and what is none of them by what it is."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from model_store.sources.checkpoint import all_tensors
from petl_vit.errors import InvalidInput

TENSORS = {"a": torch.ones(2)}


@pytest.mark.parametrize("zipped", [True, False])
def test_an_ending_that_is_not_true_does_not_matter(tmp_path: Path, zipped: bool) -> None:
    torch.save(TENSORS, tmp_path / "pickled.safetensors", _use_new_zipfile_serialization=zipped)
    safetensors.torch.save_file(TENSORS, tmp_path / "weights.bin")
    for file in tmp_path.iterdir():
        assert torch.equal(all_tensors(file)["a"], TENSORS["a"])


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html>\n<html></html>", "a page of text, not weights; look at what the download"),
        (b"", "it is empty; copy it again"),
        (b"GGUF\3\0\0\0", "a GGUF file; give the safetensors or PyTorch file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (gzip.compress(b"x", mtime=0), "compressed by gzip; unpack it first"),
    ],
)
def test_what_is_not_weights_is_called_what_it_is(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=f"{name}: .*{message}") as error:
        all_tensors(tmp_path / name)
    assert "torch.load" not in str(error.value)


def test_a_numpy_archive_says_how_timm_reads_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "B_16.npz", kernel=np.ones(2))
    with pytest.raises(InvalidInput, match=r"B_16.npz: it is a NumPy archive.*load_pretrained"):
        all_tensors(tmp_path / "B_16.npz")


def test_a_file_that_was_cut_off_is_to_be_copied_again(tmp_path: Path) -> None:
    safetensors.torch.save_file(TENSORS, tmp_path / "x.safetensors")
    torch.save(TENSORS, tmp_path / "x.pth")
    for file in sorted(tmp_path.iterdir()):
        file.write_bytes(file.read_bytes()[:-20])
        with pytest.raises(InvalidInput, match="copy it again"):
            all_tensors(file)
