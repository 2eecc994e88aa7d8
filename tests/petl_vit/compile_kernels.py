"""Compiles every kernel for an H100, which needs no GPU, and prints its name. TRITON_INTERPRET must be unset.

It is a program of its own, as kernels of a process are either interpreted or compiled.
"""

import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from petl_vit.executors import kernels

H100 = GPUTarget("cuda", 90, 32)
CONSTANTS = {
    "FIELDS": 1000, "TERMS": 1, "ROWS": 256, "BN": 32, "BT": 4, "BW": 128, "BK": 64, "RANKS": 16, "ROOM": 64,
    "KEYS": 16, "d": 64, "BD": 64, "ADD": True, "NORM": True, "P": tl.bfloat16,
}  # fmt: skip
TYPES = {
    "table": "*i64", "sources": "*i64", "slots": "*i32", "members": "*i32", "counts": "*i32",
    "alphas": "*fp32", "lse": "*fp32", "eps": "fp32", "scale": "fp32", "bank": "*fp32", "stream": "*fp32",
    "around": "*fp32", "frozen_weight": "*fp32", "frozen_bias": "*fp32",
}  # fmt: skip
NUMBERS = {
    "field", "branch", "rows", "count", "tokens", "width", "inside_width", "columns", "patches", "grid",
    "heads", "lse_stride",
}  # fmt: skip


def compiled(kernel: triton.JITFunction, half: str) -> bytes:
    """The machine code of a kernel over activations of a type."""
    constants = {name: value for name, value in CONSTANTS.items() if name in kernel.arg_names}
    numbers = NUMBERS - ({"patches"} if kernel is kernels._begin else set())
    signature = {
        name: "constexpr" if name in constants else "i32" if name in numbers else TYPES.get(name, f"*{half}")
        for name in kernel.arg_names
    }
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    found = triton.compile(ASTSource(kernel, signature, places), target=H100).asm["cubin"]
    assert isinstance(found, bytes)
    return found


def main() -> None:
    for name in (
        "_list",
        "_begin",
        "_affine",
        "_add_norm",
        "_low_rank",
        "_hide",
        "_convolve",
        "_attend_prefix",
    ):
        assert compiled(getattr(kernels, name), sys.argv[1])
        print(name)


if __name__ == "__main__":
    main()
