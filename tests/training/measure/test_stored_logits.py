"""Logits over a set are computed once: by one call, by later calls, and after a call that was killed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model_store.resolution.loading import Loader
from petl_vit.batch import Batch, Row
from petl_vit.errors import InvalidInput
from petl_vit.image_input import Preprocess
from petl_vit.precision import Precision
from tests.training.measure.conftest import Resolving
from training.data.records import Dataset, Images, Selection
from training.measure import logits as measured
from training.measure.logit_store import LogitStore
from training.measure.logits import Logits, logits_of_routes, logits_under

UNDER = (None, ("noise", 3))


class Unreadable:
    """Images that must not be read."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int, /) -> torch.Tensor:
        pytest.fail("an image was read")

    def sized(self, index: int, spec: Preprocess) -> torch.Tensor:
        pytest.fail("an image was read")


@pytest.fixture
def store(tmp_path: Path) -> LogitStore:
    return LogitStore(tmp_path / "logits")


def over(
    resolving: Resolving, dataset: Dataset, store: LogitStore, *texts: str, loader: Loader | None = None
) -> list[Logits]:
    routes = [resolving(text) for text in texts]
    return logits_under(loader or resolving.loader, routes, dataset, UNDER, store=store)


def test_a_second_call_reads_no_image_and_says_the_same(
    resolving: Resolving, dataset: Dataset, store: LogitStore
) -> None:
    first = over(resolving, dataset, store, "lora, vpt_deep", "lora")
    assert [(one.computed, one.reused) for one in first] == [(2, 0), (2, 0)]
    unreadable = replace(dataset, images=Unreadable(dataset.images))
    second = over(resolving, unreadable, store, "lora, vpt_deep", "lora")
    assert [(one.computed, one.reused) for one in second] == [(0, 2), (0, 2)]
    for one, other in zip(first, second, strict=True):
        assert (one.of(resolving("lora, vpt_deep")) == other.of(resolving("lora, vpt_deep"))).all()


def test_another_route_computes_its_new_models_alone(
    resolving: Resolving, dataset: Dataset, store: LogitStore, rows: list[Row]
) -> None:
    over(resolving, dataset, store, "lora")
    rows.clear()
    found = over(resolving, dataset, store, "lora", "0.5*lora", "lora, base")
    assert [(one.computed, one.reused) for one in found] == [(2, 1), (2, 1)]
    assert len(rows) == 2 * len(dataset) * len(UNDER)


def test_the_same_images_in_another_order_find_their_rows(
    resolving: Resolving, dataset: Dataset, store: LogitStore
) -> None:
    whole = over(resolving, dataset, store, "lora")
    places = list(range(len(dataset)))[::-1]
    backwards = replace(
        dataset,
        images=Unreadable(Selection(images=dataset.images, indices=places)),
        labels=dataset.labels.flip(0),
        fingerprints=dataset.fingerprints[::-1],
    )
    again = over(resolving, backwards, store, "lora")
    for one, other in zip(whole, again, strict=True):
        assert (one.of(resolving("lora")) == other.of(resolving("lora"))[::-1]).all()


def test_other_images_and_another_precision_are_computed(
    resolving: Resolving, dataset: Dataset, store: LogitStore
) -> None:
    over(resolving, dataset, store, "lora")
    some = replace(
        dataset,
        images=Selection(images=dataset.images, indices=range(20)),
        labels=dataset.labels[:20],
        fingerprints=dataset.fingerprints[:20],
    )
    assert over(resolving, some, store, "lora")[0].computed == 1
    loader = resolving.loader
    fast = Loader(loader.store, loader.record, precision=Precision.BF16)
    assert over(resolving, dataset, store, "lora", loader=fast)[0].computed == 1


def test_a_run_that_was_killed_goes_on_where_it_was(
    resolving: Resolving,
    dataset: Dataset,
    store: LogitStore,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[Row],
) -> None:
    monkeypatch.setattr(measured, "PART", 20)
    counted = Batch.logits

    def killed(batch: Batch, images: torch.Tensor, some: Sequence[Row]) -> list[torch.Tensor]:
        if len(rows) >= 40:
            raise KeyboardInterrupt
        return counted(batch, images, some)

    monkeypatch.setattr(Batch, "logits", killed)
    route = resolving("lora")
    with pytest.raises(KeyboardInterrupt):
        logits_of_routes(resolving.loader, [route], dataset, store=store)
    monkeypatch.setattr(Batch, "logits", counted)
    done = len(rows) // 20 * 20
    assert 0 < done < len(dataset)
    rows.clear()
    logits_of_routes(resolving.loader, [route], dataset, store=store)
    assert len(rows) == len(dataset) - done


def test_a_model_that_answers_with_nan_is_named_and_not_stored(
    resolving: Resolving, dataset: Dataset, store: LogitStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits_of, bad = Batch.logits, resolving.loader.model(resolving("vpt_deep").members[0]).key

    def broken(batch: Batch, images: torch.Tensor, some: Sequence[Row]) -> list[torch.Tensor]:
        rows = logits_of(batch, images, some)
        return [
            torch.full_like(z, torch.nan) if row.model.key == bad else z
            for z, row in zip(rows, some, strict=True)
        ]

    monkeypatch.setattr(Batch, "logits", broken)
    routes = [resolving("lora"), resolving("vpt_deep")]
    with pytest.raises(
        InvalidInput,
        match=r"route: digits/vpt_deep:1 answers 60 of 60 images of digits with numbers that are not finite; "
        r"leave it out",
    ):
        logits_of_routes(resolving.loader, routes, dataset, store=store)
    monkeypatch.setattr(Batch, "logits", logits_of)
    assert logits_of_routes(resolving.loader, routes, dataset, store=store).computed >= 1


def test_a_set_without_images_is_refused(resolving: Resolving, dataset: Dataset) -> None:
    empty = replace(
        dataset,
        images=Selection(images=dataset.images, indices=()),
        labels=dataset.labels[:0],
        fingerprints=(),
    )
    with pytest.raises(InvalidInput, match="data: digits has no images"):
        logits_of_routes(resolving.loader, [resolving("lora")], empty)
