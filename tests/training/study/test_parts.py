"""What a sweep trains, validates and tests on where its data was published in parts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from model_store.format.records import BackboneRecord
from model_store.store import Store
from petl_vit.errors import InvalidInput
from tests.training.conftest import recipe
from tests.training.study.conftest import Shown, with_recipe
from training.progress import Silent
from training.run.job import Job
from training.study import ground, studies
from training.study.session import Sweep
from training.study.sweep import run


def table(root: Path, *splits: str) -> str:
    """Ten digits in each split."""
    digits, rows = load_digits(), ["image,label,split"]
    for place in range(10 * len(splits)):
        pixels = np.rint(digits.images[place] * (255 / 16)).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{place}.png")
        rows.append(f"{place}.png,{digits.target[place]},{splits[place // 10]}")
    (root / "labels.csv").write_text("\n".join(rows))
    return str(root / "labels.csv")


@pytest.fixture
def unsplit(backbone: BackboneRecord, tmp_path: Path) -> Job:
    return Job(
        backbone=backbone.name,
        task="digits",
        name="lora",
        data="digits",
        recipe=recipe(),
        runs=tmp_path / "runs",
    )


def test_trials_are_validated_on_the_part_for_it_and_winners_are_trained_on_both(
    store: Store, unsplit: Job, tmp_path: Path
) -> None:
    source = table(tmp_path, "train", "train", "val", "test")
    job, part = ground.on_parts(replace(unsplit, data=source), Silent())
    assert (job.data, job.heldout, part) == (f"{source}::train+val", f"{source}::test", f"{source}::val")
    tuning = ground.split(store, job, 0.2, Silent(), part)
    assert [len(tuning.train), len(tuning.validation)] == [20, 10]
    assert sorted([*tuning.train.tolist(), *tuning.validation.tolist()]) == list(range(30))
    other, part = ground.on_parts(replace(unsplit, data=source, heldout="digits"), Silent())
    assert (other.heldout, part) == ("digits", f"{source}::val")


def test_a_sweep_restarted_with_other_validation_images_goes_on_with_no_trial(
    store: Store, sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = table(tmp_path, "train", "train", "val", "test")
    sweep = replace(with_recipe(sweep, epochs=2), methods=("bitfit",), trials=1)
    sweep = replace(sweep, job=replace(sweep.job, data=source))
    beats: list[float] = []
    heartbeat = studies.Studies.heartbeat

    def killed(of: Any, taken: Any, **signs: Any) -> bool:
        beats.append(signs["epoch_s"])
        if len(beats) == 2:
            raise KeyboardInterrupt
        return heartbeat(of, taken, **signs)

    monkeypatch.setattr(studies.Studies, "heartbeat", killed)
    with pytest.raises(KeyboardInterrupt):
        run(store, sweep, Shown())
    Image.new("L", (8, 8), 77).save(tmp_path / "25.png")
    with pytest.raises(InvalidInput, match=r"unfinished .* and was another one: data was"):
        run(store, sweep, Shown())
    run(store, replace(sweep, restart=True), Shown())
    assert len(beats) == 2 + 2


def test_without_a_part_for_tests_the_one_for_validation_is_held_out(unsplit: Job, tmp_path: Path) -> None:
    source = table(tmp_path, "train", "val")
    job, part = ground.on_parts(replace(unsplit, data=source), Silent())
    assert (job.data, job.heldout, part) == (f"{source}::train", f"{source}::val", None)


def test_a_share_is_validated_on_where_there_is_no_part_for_it(
    store: Store, unsplit: Job, tmp_path: Path
) -> None:
    assert ground.on_parts(unsplit, Silent()) == (unsplit, None)
    source = table(tmp_path, "train", "train", "test")
    job, part = ground.on_parts(replace(unsplit, data=source), Silent())
    assert (job.data, job.heldout, part) == (f"{source}::train", f"{source}::test", None)
    tuning = ground.split(store, job, 0.5, Silent(), part)
    assert [len(tuning.train), len(tuning.validation)] == [10, 10]
    assert {"crop_ratio", "mean", "resize"} < tuning.common().keys()


def test_a_part_of_which_no_image_is_trained_on_is_refused(
    store: Store, unsplit: Job, tmp_path: Path
) -> None:
    source = table(tmp_path, "train", "val")
    job = replace(unsplit, data=f"{source}::train", heldout="digits")
    with pytest.raises(InvalidInput, match="validation: 0 of the 10 training images are those of"):
        ground.split(store, job, 0.2, Silent(), f"{source}::val")
