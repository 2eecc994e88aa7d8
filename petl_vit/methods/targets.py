"""The linears of a block that LoRA, DoRA and VeRA can change, as a setting of theirs and as sites."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from petl_vit.architecture import Architecture


def split(value: object) -> object:
    """The command line's `qkv,proj`."""
    return value.split(",") if isinstance(value, str) else value


Targets = Annotated[
    tuple[Literal["qkv", "proj", "fc1", "fc2"], ...],
    BeforeValidator(split),
    Field(min_length=1, description="linears of a block: qkv, proj, fc1, fc2"),
]


def sites(arch: Architecture, targets: Targets) -> dict[str, tuple[int, int]]:
    """The targets of every block with their input and output widths, in order of the forward's blocks."""
    width = arch.width
    widths = {
        "qkv": ("attn.qkv", width, 3 * width),
        "proj": ("attn.proj", width, width),
        "fc1": ("mlp.fc1", width, arch.fc1_width),
        "fc2": ("mlp.fc2", arch.hidden, width),
    }
    chosen = [widths[target] for target in dict.fromkeys(targets)]
    return {f"blocks.{i}.{site}": (into, out) for i in range(arch.depth) for site, into, out in chosen}
