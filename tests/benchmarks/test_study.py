"""The study on a tiny backbone and two tiny domains, to its last page."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.study import __main__ as study
from benchmarks.study.domains import domains_of
from corolla import command
from petl_vit.errors import InvalidInput

COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coloured noise; in the second domain darker."""
    folder, random = tmp_path_factory.mktemp("domains"), np.random.default_rng(0)
    for domain, share in (("photo", 1.0), ("sketch", 0.4)):
        for name, colour in COLOURS.items():
            (folder / "set" / domain / name).mkdir(parents=True)
            for i in range(24):
                pixels = random.normal(np.array(colour) * share, 160, (16, 16, 3)).clip(0, 255)
                image = Image.fromarray(pixels.astype(np.uint8))
                image.save(folder / "set" / domain / name / f"{i}.png")
    return folder


def test_domains_are_the_folders_that_have_the_same_classes(data: Path) -> None:
    domains = domains_of(str(data), "photo")
    assert domains.shifted == ("sketch",)
    assert Path(domains.places["photo"]) == data / "set" / "photo"


def test_a_domain_that_is_not_there_is_named(data: Path) -> None:
    with pytest.raises(InvalidInput, match=r"source: .* has no domain 'foto'; did you mean photo"):
        domains_of(str(data), "foto")


def test_images_without_domains_are_refused(data: Path) -> None:
    with pytest.raises(InvalidInput, match="lay it out as DOMAIN/CLASS/IMAGE"):
        domains_of(str(data / "set" / "photo"), "photo")


@pytest.mark.slow
@pytest.mark.machine
@pytest.mark.benchmarks
def test_a_study_goes_from_images_to_its_page_and_repeats_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(data), "--folder", str(tmp_path), "--backbone", "random:test_vit"]
    arguments += ["--image-size", "32", "--images", "48", "--epochs", "1", "--batch-size", "16"]
    arguments += ["--trials", "1", "--seeds", "2", "--members", "2", "--methods", "linear,lora,ssf,full"]
    assert study.main(arguments) == 0
    page = (tmp_path / "study.md").read_text()
    assert "## The claims" in page
    assert page.count("Rule:") == 7
    assert (tmp_path / "report.html").exists()
    capsys.readouterr()
    run = command.run
    # Drawing is most of a report, and what is drawn is not what this run is about.
    monkeypatch.setattr(command, "run", lambda words: 0 if words[0] == "report" else run(words))
    assert study.main(arguments) == 0
    assert "training lora" not in capsys.readouterr().err
    assert (tmp_path / "study.md").read_text() == page
