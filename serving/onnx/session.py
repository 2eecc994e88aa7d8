"""One session of ONNX Runtime over a recorded forward, with the backbone bound to it once.

Knows ONNX Runtime, which it imports when the first session is made. The provider that is asked for is the one
that runs, or there is no session: ONNX Runtime itself would go on on the CPU and only log it.

Shapes: U images, B rows, D width, S slots, L elements of a form's flat vector.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from petl_vit.errors import CorollaError, Unsupported
from petl_vit.vit import FrozenViT
from serving.onnx.graph import Mixture, recorded

_NO_MEMORY = ("Failed to allocate memory", "bad_alloc", "out of memory")
"""What its exceptions say, which are of no kind of their own."""
_TYPES = {torch.float32: np.float32, torch.int64: np.int64}


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One edit set of a row: the slot of its form's bank that holds it, and how much of it counts."""

    form: int
    slot: int
    alpha: float


class Session:
    """Runs rows whose edits are among a mixture.

    Args:
        vit: The backbone, in float32; its tensors are bound where they are, not copied.
        mixture: What the rows may have.
        threads: Of a run on a CPU; None means all cores.

    Raises:
        Unsupported: The device is a GPU, and ONNX Runtime cannot use it.
        CorollaError: ONNX Runtime is not installed.
    """

    def __init__(self, vit: FrozenViT, mixture: Mixture, *, threads: int | None = None) -> None:
        self.mixture = mixture
        self._vit = vit
        self._session = opened(recorded(vit, mixture), vit.device, threads)
        self._binding = self._session.io_binding()
        for name, tensor in vit.params.items():
            self._bind(name, tensor)

    def features(
        self, images: Tensor, rows: Tensor, chosen: Sequence[Sequence[Placed]], banks: Mapping[int, Tensor]
    ) -> Tensor:
        """Features [B, D], on the backbone's device.

        Args:
            images: [U, 3, S, S] float32, on any device.
            rows: [B] int64: each row's image.
            chosen: The edit sets of each row.
            banks: [S, L] by the number of their form; one that is missing is used by no row.

        Raises:
            MemoryError: There is not enough memory.
        """
        device = self._vit.device
        inputs = {"images": images.to(device), "rows": rows.to(device)}
        if self.mixture.lanes:
            slots, alphas = self._lanes(chosen)
            inputs |= {"slots": slots.to(device), "alphas": alphas.to(device)}
        for name, form in zip(self.mixture.banks, self.mixture.forms, strict=True):
            bank = banks.get(form.form)
            inputs[name] = torch.zeros(1, len(form.flat), device=device) if bank is None else bank
        features = torch.empty(len(rows), self._vit.arch.width, device=device)
        for name, tensor in inputs.items():
            self._bind(name, tensor)
        self._binding.bind_output("features", **_where(features))
        self._run()
        return features

    def _lanes(self, chosen: Sequence[Sequence[Placed]]) -> tuple[Tensor, Tensor]:
        """Slots and alphas, each [lanes, B]."""
        lanes = len(self.mixture.lanes)
        slots = np.zeros((lanes, len(chosen)), np.int64)
        alphas = np.zeros((lanes, len(chosen)), np.float32)
        for row, own in enumerate(chosen):
            taken: Counter[int] = Counter()
            for placed in own:
                lane = self.mixture.lane(placed.form, taken[placed.form])
                taken[placed.form] += 1
                slots[lane, row], alphas[lane, row] = placed.slot, placed.alpha
        return torch.from_numpy(slots), torch.from_numpy(alphas)

    def _bind(self, name: str, tensor: Tensor) -> None:
        self._binding.bind_input(name, **_where(tensor))

    def _run(self) -> None:
        if self._vit.device.type == "cuda":  # its stream is not PyTorch's; it waits for its own at the end
            torch.cuda.current_stream(self._vit.device).synchronize()
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:
            if any(said in str(error) for said in _NO_MEMORY):
                raise MemoryError(str(error)) from error
            raise


def opened(graph: bytes, device: torch.device, threads: int | None = None) -> Any:
    """ONNX Runtime's own session of a graph, on a device.

    Raises:
        Unsupported: The device is a GPU, and ONNX Runtime cannot use it.
        CorollaError: ONNX Runtime is not installed.
    """
    ort = runtime()
    _share_memory()
    options = ort.SessionOptions()
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # what it could not do is asked below, or raised
    for pool in ("intra_op", "inter_op"):  # idle threads that spin starve everybody on a busy machine
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    session = ort.InferenceSession(graph, options, providers=_providers(device))
    found = session.get_providers()
    if device.type == "cuda" and found[0] != "CUDAExecutionProvider":
        raise Unsupported(
            f"ONNX Runtime cannot use the GPU, it would run on {', '.join(found)}",
            field="device",
            remedy="run pip install 'corolla[onnx]' without the package onnxruntime beside it, or start with "
            "--device cpu or --backend torch",
        )
    return session


@cache
def _share_memory() -> None:
    """All sessions of this process take the memory of their runs on the CPU from one arena.

    With one each, every graph would keep what its largest run took.
    """
    ort = runtime()
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(place, None)


def _providers(device: torch.device) -> list[Any]:
    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    cuda = {"device_id": device.index or 0, "use_tf32": 0}  # with TF32 it would not be fp32
    return [("CUDAExecutionProvider", cuda), "CPUExecutionProvider"]


def runtime() -> Any:
    """ONNX Runtime, imported when it is used.

    Raises:
        CorollaError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise CorollaError(
            "ONNX Runtime is not installed", field="backend", remedy="run pip install 'corolla[onnx]'"
        ) from error
    return onnxruntime


def _where(tensor: Tensor) -> dict[str, Any]:
    """What a binding has to know of a tensor, which must outlive the run."""
    assert tensor.is_contiguous()
    return {
        "device_type": tensor.device.type,
        "device_id": tensor.device.index or 0,
        "element_type": _TYPES[tensor.dtype],
        "shape": tuple(tensor.shape),
        "buffer_ptr": tensor.data_ptr(),
    }
