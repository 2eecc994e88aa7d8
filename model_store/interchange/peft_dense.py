"""Types of PEFT whose change has the full rank of the weight: FourierFT, C3A and HiRA.

FourierFT (arXiv 2405.03003): the inverse 2-D transform of a spectrum with n entries at seeded places.
C3A (arXiv 2407.19342): blocks of circulant matrices. HiRA: W * (B A), entry by entry.
Source: peft.tuners of 0.21.
"""

from collections.abc import Sequence

import torch

from model_store.interchange.peft_change import Change, Module, Whole, contradiction
from model_store.interchange.peft_names import CONFIG
from model_store.interchange.peft_type import Reading, a_type


def _fourierft(module: Module, reading: Reading) -> Sequence[Change]:
    count = int(reading.at(module, "n_frequency", "n_frequency_pattern"))
    values, size = module.get("fourierft_spectrum", count), module.out * module.into
    if count > size:
        raise contradiction(f"n_frequency {count} is more than {module.path} has numbers", CONFIG)
    seed = int(reading.number("random_loc_seed"))
    places = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]
    spectrum = torch.zeros(size, dtype=torch.float64)
    spectrum[places] = values
    delta = torch.fft.ifft2(spectrum.view(module.out, module.into)).real
    return [Whole(delta=reading.number("scaling") * delta)]


def _c3a(module: Module, reading: Reading) -> Sequence[Change]:
    kernels = module.get("c3a_kernel", None, None, None)
    rows, columns, size = kernels.shape
    if (rows * size, columns * size) != (module.out, module.into):
        raise contradiction(f"{module.path}.c3a_kernel does not fit {module.out} x {module.into}")
    # A circulant block has its kernel in its first row, shifted by one in every further one.
    shift = (torch.arange(size) - torch.arange(size).unsqueeze(1)) % size
    blocks = kernels[..., shift]
    delta = blocks.permute(0, 2, 1, 3).reshape(module.out, module.into)
    return [Whole(delta=delta / module.into)]


def _hira(module: Module, reading: Reading) -> Sequence[Change]:
    down = module.get("hira_A", None, module.into)
    up = module.get("hira_B", module.out, len(down))
    return [Whole(delta=module.weight * (up @ down))]


TYPES = {
    "FOURIERFT": a_type(
        "FourierFT", "fourierft_", "n_frequency n_frequency_pattern scaling random_loc_seed", _fourierft
    ),
    "C3A": a_type("C3A", "c3a_", "block_size block_size_pattern", _c3a),
    "HIRA": a_type("HiRA", "hira_", "r rank_pattern hira_dropout", _hira),
}
"""The types, by PEFT's names."""
