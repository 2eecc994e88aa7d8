"""Our engine on a GPU: against timm compiled and eager, PEFT, one adapter, and the server around it.

    python -m benchmarks.gpu --quick
    python -m benchmarks.gpu --only mixed peft --out figures
    python -m benchmarks.gpu --cpu-check
    TRITON_INTERPRET=1 python -m benchmarks.gpu --cpu-check --backend graph --only mixed ensemble

ViT-B/16 at 224 px in bf16, 256 rows of one image each, times by CUDA events, variants interleaved, medians.
A section that fails is null in the JSON line and says why under `errors`; the others go on. `--cpu-check`
runs every section on a CPU with a tiny ViT, to see that it works; what it prints there means nothing.

mixed_over_compiled, mixed_over_eager: speed of 16 adapters of eight methods over timm's plain forward of the
same rows, by the fastest mode of torch.compile and eager. model_flops_utilisation: the plain forward's
operations of these rows over the time and over what a product of 8192 x 8192 reaches. over_peft: eight LoRAs
over PEFT's adapter_names. n_over_1: 64 LoRAs over one. ensemble5_latency_over_single: of one image, lower is
better. train_step_over_peft: seconds of a step of 64 images over PEFT's, lower is better.
served_over_inprocess: images a second, gRPC with JPEGs over the engine on tensors. hotload_p50_ms: the first
answer under a LoRA of the store minus a warm one. decode: images a second by the CPU's pool and by the GPU.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import gpu_forward, gpu_service, gpu_training
from benchmarks.gpu_forward import Stage
from benchmarks.gpu_setting import Found, Setting, said
from benchmarks.report import context, parser, progress, stop_on_terminate

SECTIONS: Mapping[str, Callable[[Stage], Found]] = {
    "mixed": gpu_forward.mixed,
    "count": gpu_forward.count,
    "ensemble": gpu_forward.ensemble,
    "peft": gpu_forward.peft,
    "train": gpu_training.step,
    "served": gpu_service.served,
    "hotload": gpu_service.first_answers,
    "decode": gpu_service.decode,
    "profile": gpu_forward.kernels,
}
KEYS = (
    "mixed_over_compiled",
    "mixed_over_eager",
    "over_peft",
    "n_over_1",
    "ensemble5_latency_over_single",
    "model_flops_utilisation",
    "served_over_inprocess",
    "hotload_p50_ms",
    "train_step_over_peft",
    "decode",
)
NO_GPU = """\
benchmarks.gpu measures on a CUDA device, and torch sees none here.
Run it where `python -c "import torch; print(torch.cuda.is_available())"` says True (an NVIDIA GPU, its
driver, and a CUDA build of torch), or see with --cpu-check whether it would work."""


class Report:
    """What was found so far; printed whole, whatever happens."""

    def __init__(self) -> None:
        self.figures: dict[str, Any] = dict.fromkeys(KEYS)
        self.errors: dict[str, str] = {}

    def run(self, name: str, section: Callable[[], Found]) -> None:
        """Takes a section's figures, or its error."""
        started = time.monotonic()
        progress(f"== {name}")
        self.errors[name] = "interrupted"
        try:
            found = section()
        except Exception as error:
            self.errors[name] = said(error)
            progress(f"{name} failed: {self.errors[name]}")
        else:
            del self.errors[name]
            for table in found.tables:
                Console().print(table)
            self.figures |= found.figures
            self.errors |= found.errors
            progress(f"{name} took {time.monotonic() - started:.0f} s: {json.dumps(_rounded(found.figures))}")

    def line(self, setting: Setting) -> str:
        device = torch.cuda.get_device_name() if setting.on_gpu else "cpu"
        fixed = {
            "benchmark": "gpu",
            "torch": torch.__version__,
            "architecture": setting.architecture,
            "image_size": setting.image_size,
            "rows": setting.rows,
            "backend": setting.backend,
        }
        found = {**fixed, **_rounded(self.figures), "errors": self.errors}
        return json.dumps(found | context(("peft", "grpcio", "triton")) | {"device": device})


def _rounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _rounded(value)
        if isinstance(value, Mapping)
        else round(value, 4)
        if isinstance(value, float)
        else value
        for name, value in figures.items()
    }


def chosen(asked: argparse.Namespace, folder: Path) -> Setting:
    """What the flags come to."""
    if asked.cpu_check:
        interpreted = {"image_size": 32, "rows": 2, "adapters": 2, "rounds": 1, "warmup": 0}
        small: dict[str, Any] = {"image_size": 64, "rows": 8, "adapters": 8, "rounds": 2}
        return Setting(
            device=torch.device("cpu"),
            backend=asked.backend or "torch",
            folder=folder,
            architecture="vit_tiny_patch16_224",
            modes=("default",),
            matmul=512,
            requests=128,
            first_answers=3,
            steps=1,
            batch=4,
            jpegs=16,
            **(interpreted if asked.backend == "graph" else small),
        )
    common: dict[str, Any] = {
        "device": torch.device("cuda"),
        "backend": asked.backend or "graph",
        "folder": folder,
    }
    if asked.quick:
        modes = ("default", "reduce-overhead")
        return Setting(**common, rounds=8, modes=modes, requests=1024, first_answers=15, steps=5)
    return Setting(**common)


def main(given: Sequence[str] | None = None) -> int:
    flags = parser(__doc__ or "")
    flags.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))
    flags.add_argument("--backend", choices=("graph", "torch"), help="ours; default: graph, on a CPU torch")
    flags.add_argument("--out", type=Path, help="folder of gpu_profile.txt; default: a temporary one")
    flags.add_argument(
        "--cpu-check",
        action="store_true",
        help="every section on a CPU with a tiny ViT, to see that it works",
    )
    asked = flags.parse_args(given)
    if not asked.cpu_check and not torch.cuda.is_available():
        print(NO_GPU, file=sys.stderr)
        return 2
    folder = asked.out or Path(tempfile.mkdtemp(prefix="corolla-gpu-"))
    folder.mkdir(parents=True, exist_ok=True)
    setting, report = chosen(asked, folder), Report()
    try:
        measure(setting, asked.only or list(SECTIONS), report)
    finally:  # what was found before an interruption counts
        print(f"files: {folder}")
        print(report.line(setting), flush=True)
    return 0


def measure(setting: Setting, names: Sequence[str], report: Report) -> None:
    """Runs sections one after the other on one stage."""
    stage = Stage(setting)
    for name in names:
        report.run(name, lambda name=name: SECTIONS[name](stage))  # type: ignore[misc]
        gc.collect()
        if setting.on_gpu:
            torch.cuda.empty_cache()


if __name__ == "__main__":
    stop_on_terminate()
    sys.exit(main())
