"""The classifier with a real store, cache and engine, without gRPC."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from model_store.resolution.versions import ResolvedTerm
from model_store.routes.text import parse_route
from petl_vit.adapter import Adapter
from petl_vit.errors import Corrupt, Overloaded
from petl_vit.preprocess import preprocess
from serving.engine.engine import Job, Logits
from serving.request import ImageAnswer, Response
from tests.serving.answer.classifier.parts import Parts, answers, parts_of
from tests.serving.world import (
    WAIT_S,
    World,
    encoded,
    until,
)


async def happens(true: Callable[[], bool]) -> None:
    await asyncio.to_thread(until, true)


async def test_a_load_holds_up_no_request_for_another_adapter(parts: Parts) -> None:
    parts.loader.held["ssf:1"] = go = threading.Event()
    slow = asyncio.create_task(parts.classify("ssf", encoded(1)))
    await happens(lambda: "ssf:1" in parts.loader.loads)

    answers(await parts.classify("lora", encoded(1)))

    assert not slow.done()
    go.set()
    answers(await slow)


async def test_loading_begins_before_the_images_are_decoded(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoding = threading.Event()

    def after_the_load(*given: Any, **options: Any) -> Any:
        decoding.set()
        assert loaded.wait(WAIT_S), "the load waits for the images"
        return preprocess(*given, **options)

    loaded, load = threading.Event(), parts.loader.adapter

    def loading(term: ResolvedTerm) -> Adapter:
        assert decoding.wait(WAIT_S)
        loaded.set()
        return load(term)

    monkeypatch.setattr("serving.answer.classifier.preprocess", after_the_load)
    monkeypatch.setattr(parts.loader, "adapter", loading)

    answers(await parts.classify("lora", encoded(1)))


async def test_a_cancelled_request_does_not_cancel_a_load_that_another_waits_for(parts: Parts) -> None:
    parts.loader.held["ssf:1"] = go = threading.Event()
    first, second = (asyncio.create_task(parts.classify("ssf", encoded(i))) for i in range(2))
    digest = parts.catalog.plan("shapes", parse_route("ssf"), extrapolate=False).resolved.members[0].terms[0]
    await happens(lambda: parts.cache.leases(digest.digest) == 2)

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert not second.done()

    go.set()
    answers(await second)
    assert parts.loader.loads == ["ssf:1"]
    assert parts.cache.residents()[0].rows_in_use == 0


async def test_what_a_request_waits_for_is_held_until_it_is_answered(world: World) -> None:
    held, go = threading.Event(), threading.Event()

    def slow(jobs: list[Job]) -> list[Logits]:
        held.set()
        assert go.wait(WAIT_S)
        return [[np.zeros(3)] for _ in jobs]

    async with parts_of(world, slow) as parts:
        asked = asyncio.create_task(parts.classify("lora", encoded(1)))
        await asyncio.to_thread(held.wait, WAIT_S)
        (resident,) = parts.cache.residents()
        assert resident.rows_in_use == 1
        parts.cache.unload(resident.digest)
        assert parts.count("corolla_registered_bytes") == resident.registered_bytes

        go.set()
        answers(await asked)
        assert parts.count("corolla_registered_bytes") == 0


async def test_a_failed_load_is_the_error_of_its_request_only(own_world: World) -> None:
    own_world.adapter_file("shapes", "ssf", 1).unlink()
    async with parts_of(own_world) as parts:
        several = [parts.classify(text, encoded(1)) for text in ("ssf", "lora", "lora, ssf", "bitfit")]
        first, second, third, fourth = await asyncio.gather(*several, return_exceptions=True)

        assert isinstance(first, Corrupt)
        assert isinstance(third, Corrupt)
        assert isinstance(second, Response)
        assert isinstance(fourth, Response)
        assert {resident.rows_in_use for resident in parts.cache.residents()} == {0}


async def test_one_image_without_memory_has_its_own_error(world: World) -> None:
    def little(jobs: list[Job]) -> list[Logits | Exception]:
        return [Overloaded("no memory") if i == 1 else [np.ones(3)] for i, _ in enumerate(jobs)]

    async with parts_of(world, little) as parts:
        first, second, third = (await parts.classify("lora", *map(encoded, range(3)))).images

        assert isinstance(first, ImageAnswer)
        assert isinstance(second, Overloaded)
        assert isinstance(third, ImageAnswer)
