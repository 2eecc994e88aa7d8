"""CITATION.cff says what is cited as it is."""

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_it_names_this_version_this_licence_and_the_study() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (study,) = cited["references"]

    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert study["identifiers"][0]["value"] == "arXiv:2409.16434"
    assert study["authors"][0]["family-names"] == "Mai"
