"""What a study trains: the methods, their seeds, and the heads that they start from; and how long it takes.

Adapters are named `lora` (seed 0, from the sweep), `lora-seed1`, and `lora-random-seed1` where the head
starts at random.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from model_store.resolution.loading import Loader
from model_store.store import Store
from petl_vit import methods
from petl_vit.heads import LinearHead
from training.run.recipe import Recipe
from training.run.trainer import Trainer

METHODS = (
    "linear",
    "bitfit",
    "layernorm",
    "difffit",
    "ssf",
    "lora",
    "adaptformer",
    "convpass",
    "houlsby",
    "repadapter",
    "fact_tk",
    "vpt_deep",
    "full",
)
_EIGHT = ("bitfit", "ssf", "lora", "adaptformer", "convpass", "repadapter", "fact_tk", "vpt_deep")
"""Of every kind that the study has."""
ONE = "lora"
"""The method of the eight seeds."""
NOT_PETL = ("linear", "full")
ALPHAS = (0.25, 0.5, 0.75)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The sizes of a study.

    Attributes:
        methods: With linear, full and `ONE` among them.
        epochs, batch_size: Of every run.
        images: Trained on; a fifth of them is the validation part of the trials.
        trials: Most trials of a method.
        seeds: Adapters of each method in the main table.
        members: Of the ensembles of one method.
        measured: Images that every adapter is measured on.
    """

    methods: tuple[str, ...]
    epochs: int
    batch_size: int
    images: int
    trials: int
    seeds: int
    members: int
    measured: int

    @property
    def petl(self) -> tuple[str, ...]:
        return tuple(method for method in self.methods if method not in NOT_PETL)

    @property
    def eight(self) -> tuple[str, ...]:
        """The methods beside as many seeds of one: of every kind, neither linear nor full."""
        return tuple(method for method in self.methods if method in _EIGHT)

    def adapters(self) -> Iterator[tuple[str, int, str]]:
        """Method, seed and start of the head of everything that is trained after the sweep."""
        for method in self.methods:
            yield from ((method, seed, "probe") for seed in range(1, self.seeds))
        yield from ((ONE, seed, "probe") for seed in range(self.seeds, self.members))
        yield from ((method, 0, "random") for method in self.eight)
        yield from ((ONE, seed, "random") for seed in range(1, self.members))

    def hours(self, training: float, forward: float) -> float:
        """How long it takes.

        Args:
            training, forward: Images a second.
        """
        runs = len(self.methods) - 1 + sum(1 for method, _, _ in self.adapters() if method != "linear")
        trials = (len(self.methods) - 1) * self.trials * self.epochs * self.images * 0.8
        learnt = trials + runs * self.epochs * self.images
        models = len(self.methods) * (1 + len(ALPHAS)) + sum(1 for _ in self.adapters())
        return (learnt / training + models * self.measured / forward) / 3600


def name_of(method: str, seed: int, head: str = "probe") -> str:
    """The name of an adapter."""
    name = method.replace("_", "-")
    return name + ("-random" if head == "random" else "") + (f"-seed{seed}" if seed else "")


def speeds(store: Store, image_size: int, batch_size: int) -> tuple[float, float]:
    """Images a second of training and of a forward alone, from a few steps of LoRA on random pixels."""
    loader = Loader(store, store.backbones.get(None))
    vit = loader.vit(image_size)
    head = LinearHead(weight=torch.zeros(2, vit.arch.features), bias=torch.zeros(2))
    recipe = Recipe(method=ONE, epochs=1, batch_size=batch_size, learning_rate=1e-3, drop_path=0.0)
    trainer, images = (
        Trainer(vit, methods.get(ONE).configure({}), head, recipe),
        _Pixels(image_size, batch_size),
    )
    started = time.monotonic()
    trainer.run(images)
    training = len(images) / (time.monotonic() - started)
    started = time.monotonic()
    trainer.logits(images.batch(torch.arange(batch_size)))
    return training, batch_size / (time.monotonic() - started)


class _Pixels:
    """Random images, for timing."""

    def __init__(self, size: int, batch_size: int) -> None:
        self._size = size
        self.labels = torch.zeros(4 * batch_size, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor, augment: torch.Generator | None = None) -> torch.Tensor:
        return torch.randn(len(indices), 3, self._size, self._size, generator=augment)
