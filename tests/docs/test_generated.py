"""What is made from something else says what that says."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from docs import generate as docs
from petl_vit import plain_vits, timm_vit
from protos import generate as code
from serving.metrics.definitions import DEFINITIONS


def test_the_generated_pages_are_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the list of timm's ViTs, which takes seconds: `make lint` asks for all of them."""
    listed = SimpleNamespace(text=plain_vits.LIST.read_text)
    monkeypatch.setattr(timm_vit, "listed", lambda: listed)
    stale = [page.name for page, text in docs.pages.__wrapped__().items() if page.read_text() != text]
    assert stale == [], "run `make docs`"


def test_the_code_of_the_protocol_is_up_to_date(tmp_path: Path) -> None:
    code.generate(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*"))
    assert len(made) == 4 * len(code.sources())
    for path in made:
        assert (code.ROOT / path).read_text() == (tmp_path / path).read_text(), f"{path}: run `make proto`"


def test_every_metric_is_on_the_page() -> None:
    page = docs.metrics()
    assert [d.name for d in DEFINITIONS if f"`{d.name}`" not in page] == []


def test_everything_in_the_protocol_is_explained_or_speaks_for_itself() -> None:
    page = docs.protocol()
    for expected in (
        "**Classify**(",
        "one of `route_spec`",
        "`FEEDBACK_STATUS_DUPLICATE`",
        "### Tensor.DataType",
    ):
        assert expected in page
