"""Types of PEFT that turn a linear's input: OFT, BOFT and HRA; and PSOFT, which turns inside a subspace of W.

OFT (arXiv 2306.07280) turns blocks of the input by the Cayley transform of skew matrices, or its series.
BOFT (arXiv 2311.06243) does so with one factor, and scales the outputs without their bias.
HRA (arXiv 2405.17484): W H with Householder reflections H = prod_i (1 - 2 u_i u_i^T), a change of rank r.
PSOFT: s B (R - 1) A, with R turned between the first r singular vectors of W. Source: peft.tuners of 0.21.

Shapes: n blocks of b x b; r reflections or singular vectors.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from model_store.interchange.peft_change import Change, Module, Product, Scale, Turn, contradiction, product
from model_store.interchange.peft_folder import refusal
from model_store.interchange.peft_type import Reading, a_type


def _oft(module: Module, reading: Reading) -> Sequence[Change]:
    vectors, config = module.get("oft_R", None, None), reading.config
    size = _side(vectors.shape[1], module)
    count = module.into // size
    if size * count != module.into or len(vectors) not in (1, count):
        raise contradiction(f"{module.path}.oft_R does not fit a linear of {module.into}")
    skew = _skew(vectors, size)
    if config.get("coft"):
        # The norm is of both halves of a skew matrix, and the bound is shared among the stored blocks.
        norm = torch.linalg.norm(skew, dim=(1, 2), keepdim=True)
        bound = reading.number("eps") / len(vectors) ** 0.5
        skew = torch.where(norm <= bound, skew, bound * skew / norm)
    if config.get("use_cayley_neumann", False):
        turned = _series(skew, int(reading.number("num_cayley_neumann_terms")))
    else:
        turned = _cayley(skew)
    return [Turn(blocks=turned.expand(count, -1, -1) - torch.eye(size, dtype=torch.float64))]


def _boft(module: Module, reading: Reading) -> Sequence[Change]:
    factors = module.get("boft_R", None, None, None, None)
    if len(factors) != 1:
        raise refusal("boft_n_butterfly_factor above 1", "its blocks are shuffled between the factors")
    blocks = factors[0]
    if blocks.shape[1] != blocks.shape[2] or len(blocks) * blocks.shape[1] != module.into:
        raise contradiction(f"{module.path}.boft_R does not fit a linear of {module.into}")
    scale = module.get("boft_s", module.out, 1).flatten()
    turned = _cayley((blocks - blocks.transpose(1, 2)) / 2)
    turn = Turn(blocks=turned - torch.eye(blocks.shape[1], dtype=torch.float64), scale=scale)
    return [turn, Scale(scale=scale, shift=(1 - scale) * module.bias)]


def _hra(module: Module, reading: Reading) -> Sequence[Change]:
    axes = module.get("hra_u", module.into, None)
    if reading.config.get("apply_GS"):
        # Its Gram-Schmidt keeps the first axis' direction; QR gives the same axes but for their signs.
        axes, _ = torch.linalg.qr(axes)
        return [Product(a=axes, b=-2 * (module.weight @ axes).T)]
    axes, turned, columns = axes / axes.norm(dim=0), module.weight, list[Tensor]()
    for axis in axes.T:
        columns.append(-2 * turned @ axis)
        turned = turned + torch.outer(columns[-1], axis)
    return [Product(a=axes, b=torch.stack(columns))]


def _psoft(module: Module, reading: Reading) -> Sequence[Change]:
    config, rank = reading.config, int(reading.number("r"))
    matrix = (
        module.get("psoft_R", rank, rank) if not config.get("psoft_orth", True) else _turn(module, reading)
    )
    if "psoft_R.vector_b" in module.tensors:
        matrix = module.get("psoft_R.vector_b", rank).unsqueeze(1) * matrix
    if "psoft_R.vector_a" in module.tensors:
        matrix = matrix * module.get("psoft_R.vector_a", rank)
    up, values, down = _vectors(module, reading, rank)
    change = matrix - torch.eye(rank, dtype=torch.float64)
    # B A s is the part of W of these singular values, however they are shared between B and A.
    if config.get("ab_svd_init") == "pissa_init":
        half = values.sqrt()
        return [product(change @ (half.unsqueeze(1) * down), up * half)]
    return [product(change @ down, up * values)]


def _turn(module: Module, reading: Reading) -> Tensor:
    rank = int(reading.number("r"))
    vector = module.get("psoft_R", rank * (rank - 1) // 2)
    skew = _skew(vector.unsqueeze(0), rank)
    if not reading.config.get("use_cayley_neumann"):
        return _cayley(-skew)[0]
    bound = reading.config.get("cayley_neumann_eps")
    norm = torch.linalg.norm(skew)
    if bound is not None and norm > reading.number("cayley_neumann_eps"):
        skew = skew * (bound / (norm + 1e-12))
    return _series(skew, int(reading.number("num_cayley_neumann_terms")))[0]


def _vectors(module: Module, reading: Reading, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular vectors and values of W, as PEFT computes them when it loads the folder."""
    weight = module.weight.float()
    if reading.config.get("psoft_svd", "full") == "full":
        u, s, v = torch.linalg.svd(weight, full_matrices=False)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(reading.number("random_seed")))
            u, s, v = torch.svd_lowrank(weight, q=rank, niter=int(reading.number("psoft_svd_lowrank_niter")))
        v = v.T
    return u[:, :rank].double(), s[:rank].double(), v[:rank].double()


def _side(elements: int, module: Module) -> int:
    """b, of b (b - 1) / 2 elements above a diagonal."""
    size = (1 + math.isqrt(1 + 8 * elements)) // 2
    if size * (size - 1) // 2 != elements:
        raise contradiction(f"{module.path}.oft_R has {elements} columns, no half of a matrix")
    return size


def _skew(vectors: Tensor, size: int) -> Tensor:
    """[n, b (b - 1) / 2] above the diagonal -> [n, b, b]."""
    matrices = vectors.new_zeros(len(vectors), size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    matrices[:, rows, columns] = vectors
    return matrices - matrices.transpose(1, 2)


def _cayley(skew: Tensor) -> Tensor:
    """(1 - Q) (1 + Q)^-1 of [n, b, b]."""
    one = torch.eye(skew.shape[-1], dtype=skew.dtype).expand_as(skew)
    solved: Tensor = torch.linalg.solve(one + skew, one - skew, left=False)
    return solved


def _series(skew: Tensor, terms: int) -> Tensor:
    """PEFT's series of it: 1 + 2 Q + 2 Q^2 + ... with the last term once, and Q for -Q."""
    turned = torch.eye(skew.shape[-1], dtype=skew.dtype).expand_as(skew).clone()
    if terms < 2:
        return turned
    turned, power = turned + 2 * skew, skew
    if terms > 2:
        power = skew @ skew
        turned = turned + 2 * power
        for _ in range(3, terms - 1):
            power = power @ skew
            turned = turned + 2 * power
        turned = turned + power @ skew
    return turned


TYPES = {
    "OFT": a_type(
        "OFT",
        "oft_",
        "r oft_block_size coft eps block_share use_cayley_neumann num_cayley_neumann_terms",
        _oft,
    ),
    "BOFT": a_type(
        "BOFT", "boft_", "boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout", _boft
    ),
    "HRA": a_type("HRA", "hra_", "r apply_GS", _hra),
    "PSOFT": a_type(
        "PSOFT",
        "psoft_",
        "r psoft_alpha psoft_dropout ab_svd_init psoft_svd psoft_svd_lowrank_niter random_seed psoft_orth "
        "psoft_mag_a psoft_mag_b use_cayley_neumann num_cayley_neumann_terms cayley_neumann_eps",
        _psoft,
    ),
}
"""The types, by PEFT's names."""
