"""One session of ONNX Runtime over a recorded forward, with the backbone bound to it once.

Knows ONNX Runtime, and imports it when the first session is made. A session runs on the requested provider
or is refused: ONNX Runtime itself would continue on the CPU and only log that.

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
"""Parts of messages that mean a lack of memory: its exceptions have no type for that."""
_TYPES = {torch.float32: np.float32, torch.int64: np.int64}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one edit set of a row is: the slot of its form's bank; and its alpha."""

    form: int
    slot: int
    alpha: float


class Session:
    """Runs rows whose edits are among a mixture.

    Args:
        vit: The backbone, in float32; its tensors are bound where they are, not copied.
        mixture: The edit sets that its rows may have.
        threads: Threads of a run on a CPU; None is as many as PyTorch uses.

    Raises:
        Unsupported: The device is a GPU, and ONNX Runtime cannot use it.
        CorollaError: ONNX Runtime is not installed.
    """

    def __init__(self, vit: FrozenViT, mixture: Mixture, *, threads: int | None = None) -> None:
        self.mixture = mixture
        self._vit = vit
        self.runtime = opened(recorded(vit, mixture), vit.device, threads)
        self._binding = self.runtime.io_binding()
        for name, tensor in vit.params.items():
            self._bind(name, tensor)

    def features(
        self, images: Tensor, rows: Tensor, places: Sequence[Sequence[Place]], banks: Mapping[int, Tensor]
    ) -> Tensor:
        """Features [B, D], on the backbone's device.

        Args:
            images: [U, 3, S, S] float32, on any device.
            rows: [B] int64: each row's image.
            places: Those of each row's edit sets.
            banks: [S, L] by the number of their form; missing where no row uses it.

        Raises:
            MemoryError: There is not enough memory.
        """
        device = self._vit.device
        inputs = {"images": images.to(device), "rows": rows.to(device)}
        if self.mixture.lanes:
            slots, alphas = self._lanes(places)
            inputs |= {"slots": slots.to(device), "alphas": alphas.to(device)}
        for name, form in zip(self.mixture.banks, self.mixture.forms, strict=True):
            bank = banks.get(form.form)
            inputs[name] = torch.zeros(1, len(form.flat), device=device) if bank is None else bank
        features = torch.empty(len(rows), self._vit.arch.features, device=device)
        for name, tensor in inputs.items():
            self._bind(name, tensor)
        self._binding.bind_output("features", **_binding_of(features))
        self._run()
        return features

    def _lanes(self, places: Sequence[Sequence[Place]]) -> tuple[Tensor, Tensor]:
        """Slots and alphas, each [lanes, B]."""
        lanes = len(self.mixture.lanes)
        slots = np.zeros((lanes, len(places)), np.int64)
        alphas = np.zeros((lanes, len(places)), np.float32)
        for row, row_places in enumerate(places):
            used: Counter[int] = Counter()
            for place in row_places:
                lane = self.mixture.lane(place.form, used[place.form])
                used[place.form] += 1
                slots[lane, row], alphas[lane, row] = place.slot, place.alpha
        return torch.from_numpy(slots), torch.from_numpy(alphas)

    def _bind(self, name: str, tensor: Tensor) -> None:
        self._binding.bind_input(name, **_binding_of(tensor))

    def _run(self) -> None:
        if self._vit.device.type == "cuda":  # ONNX Runtime has its own stream, which it waits for at the end
            torch.cuda.current_stream(self._vit.device).synchronize()
        try:
            self.runtime.run_with_iobinding(self._binding)
        except Exception as error:
            if any(text in str(error) for text in _NO_MEMORY):
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
    # Never ONNX Runtime's default: that is a thread for each core of the machine, tied to a core that the
    # affinity may exclude.
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only; the providers are checked below
    for pool in (
        "intra_op",
        "inter_op",
    ):  # spinning idle threads would slow everything else on a busy machine
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    session = ort.InferenceSession(graph, options, providers=_providers(device))
    active = session.get_providers()
    if device.type == "cuda" and active[0] != "CUDAExecutionProvider":
        raise Unsupported(
            f"ONNX Runtime cannot use the GPU, it would run on {', '.join(active)}",
            field="device",
            remedy="run pip install 'corolla[onnx]' without the package onnxruntime beside it, or start with "
            "--device cpu or --backend torch",
        )
    return session


@cache
def _share_memory() -> None:
    """Lets all sessions of this process take the memory of their CPU runs from one arena.

    With an arena each, every graph would keep the memory of its largest run.
    """
    ort = runtime()
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(memory, None)


def _providers(device: torch.device) -> list[Any]:
    if device.type != "cuda":
        return ["CPUExecutionProvider"]
    cuda = {"device_id": device.index or 0, "use_tf32": 0}  # TF32 is less precise than fp32
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


def _binding_of(tensor: Tensor) -> dict[str, Any]:
    """What ONNX Runtime binds of a tensor, which must outlive the run."""
    assert tensor.is_contiguous()
    return {
        "device_type": tensor.device.type,
        "device_id": tensor.device.index or 0,
        "element_type": _TYPES[tensor.dtype],
        "shape": tuple(tensor.shape),
        "buffer_ptr": tensor.data_ptr(),
    }
