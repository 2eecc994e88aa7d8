"""The memory of one backbone with adapters, and of as many merged models; each in a process of its own."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from benchmarks.adapters import adapter, backbone, tensors
from benchmarks.peers_inside.copies import merged
from benchmarks.resident import resident_bytes

Footprint = tuple[int, int]
"""Bytes by account, and what the resident memory of the process grew by."""


def ours_over_copies(architecture: str, image_size: int, adapters: int) -> dict[str, float]:
    """One backbone with LoRA adapters over that many models, `account` and `rss`."""
    with ThreadPoolExecutor(2) as both:
        ours, theirs = both.map(
            lambda build: _fresh(build, architecture, image_size, adapters), (_ours, _copies)
        )
    return {"account": ours[0] / theirs[0], "rss": ours[1] / theirs[1]}


def _ours(architecture: str, image_size: int, count: int) -> Footprint:
    before = _settled()
    vit, _ = backbone(architecture, image_size)
    adapters = [adapter("lora", vit, seed) for seed in range(count)]
    del _
    account = sum(t.nbytes for t in vit.params.values()) + sum(a.nbytes for a in adapters)
    return account, resident_bytes() - before


def _copies(architecture: str, image_size: int, count: int) -> Footprint:
    before = _settled()
    vit, _ = backbone(architecture, image_size)
    models = [merged(tensors("lora", vit, seed), vit) for seed in range(count)]
    del vit, _
    return sum(t.nbytes for m in models for t in m.parameters()), resident_bytes() - before


def _settled() -> int:
    """Resident memory once everything is loaded that making a first model loads."""
    vit, _ = backbone("vit_tiny_patch16_224", 32)
    merged(tensors("lora", vit, 0), vit)
    return resident_bytes()


def _fresh(build: Callable[[str, int, int], Footprint], *arguments: str | int) -> Footprint:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(build, *arguments).result()  # type: ignore[arg-type]
