"""What a file of weights is by its first bytes, whatever its name ends in."""

import re
from pathlib import Path

from petl_vit.errors import InvalidInput

_HEAD_BYTES = 512
_LONGEST_HEADER = 10**8  # as safetensors itself has it
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<\?xml)", re.IGNORECASE)
_NOT_WEIGHTS = (
    (
        b"version https://git-lfs",
        "it is a pointer of Git LFS, not the file",
        "run `git lfs pull` where it is",
    ),
    (b"GGUF", "it is a GGUF file", "give the safetensors or PyTorch file of the model"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes them", "save its tensors with safetensors"),
    (b"\x1f\x8b", "it is compressed by gzip", "unpack it first"),
)


def is_safetensors(path: Path) -> bool:
    """Whether a file is read as safetensors: by its first bytes, and by its name where they do not tell.

    Raises:
        InvalidInput: As `check` does.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    check(head, path.name)
    header = int.from_bytes(head[:8], "little")
    if 2 <= header <= _LONGEST_HEADER and head[8:9] == b"{":
        return True
    pickled = head.startswith((b"PK\x03\x04", b"\x80\x02"))  # torch.save's zip, and as it was before 1.6
    return path.suffix == ".safetensors" and not pickled


def check(data: bytes, name: str) -> None:
    """Refuses a file that is known to have no weights, or none that are read.

    Args:
        data: Its bytes, or the first of them.
        name: What errors call it.

    Raises:
        InvalidInput: It is one; says what it is.
    """
    head = data[:_HEAD_BYTES]
    for start, problem, remedy in _NOT_WEIGHTS:
        if head.startswith(start):
            raise InvalidInput(problem, field=name, remedy=remedy)
    if not head:
        raise InvalidInput("it is empty", field=name, remedy="copy it again")
    if _PAGE.match(head):
        raise InvalidInput(
            "it is a page of text, not weights", field=name, remedy="look at what the download returned"
        )
    if head.startswith(b"PK\x03\x04") and b".npy" in head:
        raise InvalidInput(
            "it is a NumPy archive, and not read",
            field=name,
            remedy="load it into timm's model (model.load_pretrained) and save its state dict",
        )
