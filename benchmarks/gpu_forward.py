"""Batches of many adapters through our back end, against timm's plain forward and PEFT on the same rows.

Ours counts the forward, the copy of its features to the host and the heads there; images are on the device
beforehand, as they are for all others, unless it says otherwise.

Shapes: B rows, S image size, C classes.
"""

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.adapters import backbone, base_head, tensors
from benchmarks.gpu_setting import Found, Setting, said
from benchmarks.interleave import Costs, speed_ratio
from benchmarks.mixed import METHODS
from benchmarks.peers_inside.peft_model import PeftModel
from benchmarks.report import progress
from petl_vit import methods
from petl_vit.adapter import Adapter
from petl_vit.architecture import Architecture
from petl_vit.arena import Arena
from petl_vit.batch import Batch, Model, Row, Term, logits_of
from petl_vit.precision import Precision
from petl_vit.slots import Slots
from petl_vit.vit import FrozenViT
from serving.engine.backend import Backend, TorchBackend

if TYPE_CHECKING:
    from serving.engine.graph_backend import GraphBackend

MIXED_ADAPTERS, PEFT_ADAPTERS = 16, 8
MEMBERS = ("lora", "ssf", "adaptformer", "vpt_deep", "bitfit")
EAGER, MIXED, HOST = "timm, eager", "16 adapters of 8 methods", "16 adapters of 8 methods, from the host"
UNEDITED, PART = "ours, no edits", "a quarter of the rows"
AGREE = 5e-2
"""Largest difference of a peer's logits from ours, relative to the largest logit."""
ARENA_BYTES = 2**30
TOP_KERNELS = 15

Run = Callable[[], object]
Logits = Callable[[], list[Tensor]]


class Stage:
    """One backbone on the device, timm's model with the same weights, and images for both."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.host, self.plain_host = backbone(setting.architecture, setting.image_size)
        self.vit = self.host.to(device=setting.device).in_precision(Precision(setting.precision))
        self.plain = copy.deepcopy(self.plain_host).to(device=setting.device, dtype=setting.dtype)
        size = setting.image_size
        self.images = torch.randn(setting.rows, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.on_device = self.images.to(device=setting.device, dtype=setting.dtype)
        self.errors: dict[str, str] = {}
        self.best: str | None = None

    @cached_property
    def ours(self) -> "Ours":
        return Ours(self.vit, self.setting.backend)

    def eager(self) -> object:
        """timm's forward as it comes."""
        return _plain(self.plain, self.on_device)

    @cached_property
    def compiled(self) -> dict[str, Run]:
        """timm's forward by every mode of torch.compile that works here.

        Of the others `errors` says why; `best` is the fastest, once that was measured.
        """
        found: dict[str, Run] = {}
        for mode in self.setting.modes:
            progress(f"torch.compile, {mode}")
            run = partial(_plain, torch.compile(self.plain, mode=mode), self.on_device)
            try:
                run()
            except Exception as error:  # what compilers raise is endless, and one mode will do
                self.errors[f"compiled, {mode}"] = said(error)
            else:
                found[f"timm, compiled ({mode})"] = run
        return found

    def models(self, names: Sequence[str], count: int) -> list[Model]:
        """So many models of distinct adapters, the methods taking turns."""
        return [
            Model([Term(adapter=self._adapter(name, seed))])
            for seed, name in enumerate(islice(cycle(names), count))
        ]

    def mixed(self, names: Sequence[str], count: int) -> Run:
        """A batch in which row i is image i under model i mod their number, images in place."""
        return self.ours.in_place(self.images, self.rows(self.models(names, count)))

    def rows(self, models: Sequence[Model]) -> list[Row]:
        return [Row(image=i, model=models[i % len(models)]) for i in range(self.setting.rows)]

    def _adapter(self, name: str, seed: int) -> Adapter:
        """From a host's tensors: an adapter begins as parts of the backbone where that is."""
        return Adapter.load(
            digest=f"{name}-{seed}",
            method=methods.get(name)(),
            tensors=tensors(name, self.host, seed),
            vit=self.vit,
            base_head=base_head(self.host),
            task_digest="task",
        )


class Ours:
    """Our back end over a backbone."""

    def __init__(self, vit: FrozenViT, kind: str) -> None:
        self._vit, self._kind = vit, kind
        arena = None
        if kind == "graph":
            arena = Arena(vit.arch, nbytes=ARENA_BYTES, slots=256, dtype=vit.dtype, device=vit.device)
        self._slots = Slots(vit.device, arena=arena)
        self._graphs = None if kind == "torch" else _graphs(vit, self._slots)
        self._backend: Backend = self._graphs or TorchBackend(lambda size: vit, self._slots)

    def from_host(self, images: Tensor, rows: Sequence[Row]) -> Logits:
        """A batch as the engine has it: images on the host, in float32."""
        return partial(self._backend.logits, list(images), rows)

    def in_place(self, images: Tensor, rows: Sequence[Row]) -> Logits:
        """The same batch with its images on the device beforehand.

        Args:
            images: On the host, one of each row.
        """
        if self._graphs is None:
            placed = images.to(device=self._vit.device, dtype=self._vit.product_dtype)
            return partial(Batch(self._vit, slots=self._slots).logits, placed, rows)
        self.from_host(images, rows)()  # the adapters are in their slots
        return _replayed(self._graphs, images, rows)


def _graphs(vit: FrozenViT, slots: Slots) -> "GraphBackend":
    from serving.engine.graph_backend import GraphBackend  # Triton is not everywhere

    return GraphBackend(lambda size: vit, slots)


def _replayed(backend: "GraphBackend", images: Tensor, rows: Sequence[Row]) -> Logits:
    """One graph's replay with these rows, whose slots are filled, and their heads; others run in it too."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].model.key)  # as the back end has them
    models = [rows[i].model for i in order]
    graph = backend._graph(images.shape[-1], len(rows), 1)  # of so many rows, which the back end has none of
    terms = [model.edited for model in models]
    numbers = [[backend._slots.number(term.adapter) for term in of_row] for of_row in terms]
    alphas = [[term.alphas[0] for term in of_row] for of_row in terms]
    graph.begin([images[rows[i].image] for i in order], range(len(order)), numbers, alphas)()
    inputs = graph._inputs
    placed, slots, factors = inputs.images.clone(), inputs.slots.clone(), inputs.alphas.clone()
    sources = inputs.sources.clone()

    @torch.inference_mode()
    def run() -> list[Tensor]:
        inputs.images.copy_(placed)
        inputs.sources.copy_(sources)
        inputs.slots.copy_(slots)
        inputs.alphas.copy_(factors)
        found = dict(zip(order, logits_of(graph._replay()[: len(rows)].cpu(), models), strict=True))
        return [found[i] for i in range(len(rows))]

    return run


@torch.inference_mode()
def _plain(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    return model(images)


# Sections


def mixed(stage: Stage) -> Found:
    """16 adapters of eight methods against timm's plain forward, eager and compiled."""
    setting, models = stage.setting, stage.models(METHODS, MIXED_ADAPTERS)
    rows = stage.rows(models)
    variants: dict[str, Run] = {
        MIXED: stage.ours.in_place(stage.images, rows),
        UNEDITED: stage.ours.in_place(stage.images, stage.rows(stage.models(["linear"], 1))),
        PART: stage.ours.in_place(stage.images[: setting.rows // 4], rows[: setting.rows // 4]),
        HOST: stage.ours.from_host(stage.images, rows),
        EAGER: stage.eager,
    }
    taken = setting.costs(variants | stage.compiled)
    best = stage.best = min(stage.compiled, key=lambda name: statistics.median(taken[name]), default=None)
    peak = matmul_flops(setting)
    reached = setting.rows * flops(stage.vit.arch) / statistics.median(taken[MIXED])
    return Found(
        figures={
            "mixed_over_compiled": None if best is None else speed_ratio(taken, MIXED, best),
            "mixed_over_compiled_from_host": None if best is None else speed_ratio(taken, HOST, best),
            "unedited_over_compiled": None if best is None else speed_ratio(taken, UNEDITED, best),
            "quarter_over_whole": speed_ratio(taken, PART, MIXED) / 4,
            "mixed_over_eager": speed_ratio(taken, MIXED, EAGER),
            "compiled": best,
            "model_flops_utilisation": reached / peak,
            "matmul_tflops": peak / 1e12,
            "mixed_ms": 1000 * statistics.median(taken[MIXED]),
        },
        tables=[table(f"{setting.rows} rows", taken, MIXED)],
        errors=stage.errors,
    )


def flops(arch: Architecture) -> int:
    """Of timm's plain forward of one image: two for each multiplication, products of attention included."""
    patches, width = arch.grid**2, arch.width
    tokens = patches + arch.prefix_tokens
    linears = 2 * tokens * width * (4 * width + 2 * arch.hidden)
    attention = 4 * tokens**2 * width
    return 2 * patches * width * 3 * arch.patch_size**2 + arch.depth * (linears + attention)


def matmul_flops(setting: Setting) -> float:
    """What a large square product reaches, per second."""
    n = setting.matmul
    one, two = (torch.randn(n, n, device=setting.device, dtype=setting.dtype) for _ in range(2))
    taken = setting.costs({"matmul": partial(torch.matmul, one, two)})
    return 2 * n**3 / statistics.median(taken["matmul"])


def count(stage: Stage) -> Found:
    """Many adapters against one: all LoRA, and of eight methods."""
    setting, many = stage.setting, stage.setting.adapters
    loras, several, one = f"{many} LoRAs", f"{many} adapters of 8 methods", "1 LoRA"
    taken = setting.costs(
        {
            loras: stage.mixed(["lora"], many),
            several: stage.mixed(METHODS, many),
            one: stage.mixed(["lora"], 1),
        }
    )
    return Found(
        figures={
            "n_over_1": speed_ratio(taken, loras, one),
            "n_over_1_methods": speed_ratio(taken, several, one),
        },
        tables=[table(f"{setting.rows} rows", taken, one)],
    )


def ensemble(stage: Stage) -> Found:
    """One image under five adapters of five methods against one under a LoRA, from the host."""
    members, single = stage.models(MEMBERS, len(MEMBERS)), stage.models(["lora"], 1)
    one = stage.images[:1]
    five, alone = "ensemble of 5", "1 LoRA"
    taken = stage.setting.costs(
        {
            five: stage.ours.from_host(one, [Row(image=0, model=model) for model in members]),
            alone: stage.ours.from_host(one, [Row(image=0, model=model) for model in single]),
        },
        rounds=5 * stage.setting.rounds,
    )
    return Found(
        figures={
            "ensemble5_latency_over_single": speed_ratio(taken, alone, five),
            "single_ms": 1000 * statistics.median(taken[alone]),
        },
        tables=[table("one image", taken, alone)],
    )


class Peft(PeftModel):
    """PEFT on the device, its adapters as precise as the backbone; as it comes, they would be float32."""

    def __init__(self, stage: Stage, loras: Sequence[Mapping[str, Tensor]]) -> None:
        super().__init__(stage.plain_host, loras)
        self._model.to(device=stage.setting.device, dtype=stage.setting.dtype)


def peft(stage: Stage) -> Found:
    """Eight LoRAs by PEFT's `adapter_names` on the same rows.

    Raises:
        RuntimeError: PEFT gives other results than ours.
    """
    setting = stage.setting
    theirs = Peft(stage, [tensors("lora", stage.host, seed) for seed in range(PEFT_ADAPTERS)])
    which = [row % PEFT_ADAPTERS for row in range(setting.rows)]
    ours = stage.ours.in_place(stage.images, stage.rows(stage.models(["lora"], PEFT_ADAPTERS)))
    check_same(theirs.logits(stage.on_device, which), ours())
    names = (f"{PEFT_ADAPTERS} LoRAs", f"{PEFT_ADAPTERS} LoRAs, peft")
    taken = setting.costs({names[0]: ours, names[1]: partial(theirs.logits, stage.on_device, which)})
    return Found(
        figures={"over_peft": speed_ratio(taken, *names)},
        tables=[table(f"{setting.rows} rows", taken, names[1])],
    )


def check_same(theirs: Tensor, ours: Sequence[Tensor]) -> None:
    """A peer that computes something else is none.

    Raises:
        RuntimeError: The largest difference is above 5e-2 of the largest logit.
    """
    expected = torch.stack(list(ours)).float().cpu()
    error = float((theirs.float().cpu() - expected).abs().max() / expected.abs().max())
    if not error <= AGREE:
        raise RuntimeError(f"it gives other results than ours: relative error {error:.2g}")


def kernels(stage: Stage) -> Found:
    """Where the time of the mixed and of the compiled forward goes, kernel by kernel; also as files.

    The tables are in gpu_profile.txt, a trace of each forward in gpu_trace_1.json.gz and gpu_trace_2.json.gz
    (chrome://tracing, ui.perfetto.dev).
    """
    runs: dict[str, Run] = {MIXED: stage.mixed(METHODS, MIXED_ADAPTERS)}
    best = stage.best or next(iter(stage.compiled), None)
    runs |= {EAGER: stage.eager} if best is None else {best: stage.compiled[best]}
    path, tables = profiled(runs, stage.setting, "gpu")
    return Found(figures={"profile": str(path)}, tables=tables)


PROFILED = 2
"""How often `profiled` runs each."""


def profiled(runs: Mapping[str, Run], setting: Setting, prefix: str) -> tuple[Path, list[Table]]:
    """The kernels that take most of each run: tables, in PREFIX_profile.txt too; traces are beside it."""
    tables = [
        _kernels(name, run, setting, setting.folder / f"{prefix}_trace_{number}.json.gz")
        for number, (name, run) in enumerate(runs.items(), 1)
    ]
    path = setting.folder / f"{prefix}_profile.txt"
    with path.open("w", encoding="utf-8") as file:
        for found in tables:
            Console(file=file, width=160).print(found)
    return path, tables


def _kernels(name: str, run: Run, setting: Setting, trace: Path) -> Table:
    """The kernels that take most of a run; on a CPU the operations. Writes the whole run to `trace`."""
    run()
    where = "CUDA" if setting.on_gpu else "CPU"
    if setting.on_gpu:
        torch.cuda.synchronize()
    with profile(activities=[getattr(ProfilerActivity, where)]) as recorded:
        run()
        if setting.on_gpu:
            torch.cuda.synchronize()
    recorded.export_chrome_trace(str(trace))
    events = [event for event in recorded.key_averages() if event.device_type.name == where]
    taken = {
        event.key: event.self_device_time_total if setting.on_gpu else event.self_cpu_time_total
        for event in events
    }
    whole = sum(taken.values())
    shown = Table("kernel", "times", "ms", "share", title=f"{name}: {whole / 1000:.2f} ms in all")
    for event in sorted(events, key=lambda event: -taken[event.key])[:TOP_KERNELS]:
        shown.add_row(
            escape(event.key[:110]),
            str(event.count),
            f"{taken[event.key] / 1000:.3f}",
            f"{taken[event.key] / whole:.1%}",
        )
    return shown


def table(title: str, taken: Costs, baseline: str) -> Table:
    shown = Table("variant", "ms (median)", f"speed / {baseline}", title=title)
    for name, seconds in taken.items():
        shown.add_row(
            name, f"{1000 * statistics.median(seconds):.2f}", f"{speed_ratio(taken, name, baseline):.3f}"
        )
    return shown
