"""`make watch-demo`, small: a real server, the evaluator, and a real Prometheus whose alert fires."""

from pathlib import Path

import numpy as np
import pytest
import torch

import watch_demo
from model_store.format.reference import ReferenceData
from model_store.resolution.answering import answering
from model_store.resolution.loading import Loader
from model_store.resolution.reference import route_of
from petl_vit.batch import Batch
from petl_vit.logits import logits_of_images
from petl_vit.precision import Precision
from petl_vit.preprocess import preprocess
from tests.prometheus import tool
from tests.serving.world import PREPROCESS, Running, World, encoded
from training.measure.reference import Observed, reference

pytestmark = pytest.mark.slow

ROUTE = "blend"
MEMBERS = "lora, 0.85*lora, 0.7*lora, 0.55*lora"
"""They agree but where the way from the base to the adapter crosses a border between classes."""
IMAGES = 300


def world_with_a_reference(folder: Path) -> tuple[World, list[bytes], list[bytes]]:
    """A store, images like those of its reference, and images on which the members disagree."""
    world = World.make(folder / "store")
    world.put_route(ROUTE, MEMBERS)
    named = world.store.routes.get("shapes", ROUTE)
    now = answering(world.store, named)
    images = [encoded(seed) for seed in range(IMAGES)]
    loader = Loader(world.store, world.backbone)
    pixels = torch.stack([preprocess(image, PREPROCESS) for image in images])
    found = logits_of_images(Batch(loader.vit(PREPROCESS.image_size)), loader.models(now.resolved), pixels)
    logits = torch.stack(found, dim=1).double().numpy()
    answers = logits.mean(axis=1).argmax(axis=-1)
    unanimous = (logits.argmax(axis=-1) == answers[:, None]).all(axis=1)
    usual, disputed = np.flatnonzero(unanimous), np.flatnonzero(~unanimous)
    assert len(usual) > 120
    assert len(disputed) > 10
    world.store.references.put(
        reference(
            Observed(logits=logits[usual[::2]], labels=answers[usual[::2]]),
            route=route_of(named, now),
            data=ReferenceData(name="usual", digest="0" * 64, images=len(usual[::2])),
            classes=now.resolved.classes,
            precision=Precision.FP32,
        )
    )
    return world, [images[i] for i in usual[1::2]], [images[i] for i in disputed]


def test_the_alert_fires_in_prometheus_on_the_shift_and_not_before(tmp_path: Path) -> None:
    program = tool("prometheus")
    world, calm, shifted = world_with_a_reference(tmp_path)
    settings = world.settings(domains=watch_demo.DOMAIN)
    with Running(settings) as running, watch_demo.Prometheus(program, tmp_path) as prometheus:
        prometheus.scrape(corolla=f"127.0.0.1:{running.server.metrics_port}")
        with watch_demo.watching(prometheus, tmp_path) as monitor, running.client() as client:
            send = watch_demo.sender(client, ROUTE, "shapes")
            outcome = watch_demo.play(send, calm[:48], (shifted * 60)[:600], prometheus, monitor)
    assert outcome.expected, outcome.text
    assert outcome.counted is not None
    assert outcome.counted <= outcome.calm + outcome.shifted
