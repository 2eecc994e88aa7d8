"""What is made from something else says what that says."""

from pathlib import Path

import pytest

from docs import generate as docs
from protos import generate as code
from serving.metrics.definitions import DEFINITIONS


@pytest.mark.parametrize("page", docs.pages(), ids=lambda page: page.name)
def test_a_generated_page_is_up_to_date(page: Path) -> None:
    assert page.read_text() == docs.pages()[page], "run `make docs`"


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
