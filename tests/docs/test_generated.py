"""What is made from something else says what that says."""

from pathlib import Path

from docs import generate as docs
from protos import generate as code
from serving.metrics.definitions import DEFINITIONS


def test_the_generated_pages_are_up_to_date() -> None:
    stale = [page.name for page, text in docs.pages().items() if page.read_text() != text]
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
