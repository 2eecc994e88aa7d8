"""On what something was measured."""

import platform
from pathlib import Path

import torch

from model_store.resolution.loading import Loader
from petl_vit.architecture import describe
from petl_vit.cpus import usable_cpus
from petl_vit.precision import Precision
from training.measure.document import EvaluatedBackbone, Machine


def machine(loader: Loader) -> Machine:
    """The machine of this process, as a loader uses it."""
    cuda = loader.device.type == "cuda"
    return Machine(
        cpu=_cpu_name(),
        cores=usable_cpus().count,
        device=torch.cuda.get_device_name(loader.device) if cuda else str(loader.device),
        precision="bf16" if loader.precision is Precision.BF16 else "fp32",
    )


def backbone(loader: Loader) -> EvaluatedBackbone:
    """The backbone of a loader."""
    shapes = describe(loader.record.config).shapes.values()
    return EvaluatedBackbone(
        name=loader.record.name,
        digest=loader.record.digest,
        parameters=sum(torch.Size(shape).numel() for shape in shapes),
    )


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
