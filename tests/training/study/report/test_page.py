"""The page as a whole: what it holds, and how a real browser shows it."""

import json
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from matplotlib.figure import Figure as Canvas

from tests.chromium import CUT_OFF, chromium
from tests.training.study.report.documents import evaluation
from tests.training.study.report.pictures import gallery
from training.study.report.build import contents
from training.study.report.contents import Contents, Data, Figure, Section
from training.study.report.drawing import Width, drawn, panels
from training.study.report.material import Material
from training.study.report.render import html

METHODS = ("linear", "bitfit", "lora", "full")


@pytest.fixture(scope="module")
def page() -> Contents:
    return contents(
        Material(evaluation=evaluation(METHODS, sets=("photo", "sketch"), seeds=2), disputed=gallery())
    )


@pytest.fixture(scope="module")
def written(page: Contents, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html(page))
    return path


class Elements(HTMLParser):
    """The start tags of a page, in order, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]


def test_the_page_is_one_file_that_asks_for_nothing(written: Path) -> None:
    elements = Elements(written.read_text())
    assert written.stat().st_size < 3e6
    assert not elements.of("link", "iframe", "object", "embed")
    sources = [one.get("src") for one in elements.of("img", "script", "source") if one.get("src")]
    assert sources
    assert all(str(source).startswith("data:image/jpeg;base64,") for source in sources)
    targets = [str(one.get("href")) for one in elements.of("a", "use") if one.get("href")]
    assert all(target.startswith(("#", "data:text/csv")) for target in targets)


def test_headings_are_in_order_tables_have_heads_and_pictures_words(written: Path) -> None:
    elements = Elements(written.read_text())
    levels = [int(tag[1]) for tag, _ in elements.found if tag in ("h1", "h2", "h3", "h4")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(one.get("scope") in ("col", "row") for one in elements.of("th"))
    assert all(one.get("alt") for one in elements.of("img"))
    assert all(one.get("role") == "img" and one.get("aria-labelledby") for one in elements.of("svg"))
    ids = [one["id"] for _, one in elements.found if one.get("id")]
    assert len(ids) == len(set(ids))
    assert all(str(one.get("href"))[1:] in ids for one in elements.of("a") if str(one.get("href"))[:1] == "#")


def test_names_are_shown_and_never_read_as_markup() -> None:
    name = "<b>$x_1$ 犬"

    def draw(width: Width) -> Canvas:
        canvas, (axes,) = panels(width, 100)
        axes.set_title(name)
        return canvas

    wide, narrow = drawn(draw, "one", name, f"{name}!")
    data = Data(name="one", columns=("x",), rows=((1,),))
    figure = Figure(title=name, caption=f"`{name}`", wide=wide, narrow=narrow, data=data)
    section = Section(key="one", heading=name, words=(name,), blocks=(figure,))
    whole = html(Contents(title=name, subtitle=name, facts=(), cards=(), sections=(section,)))
    assert "<b>" not in whole
    assert whole.count("&lt;b&gt;$x_1$ 犬") >= 10
    assert "<code>&lt;b&gt;$x_1$ 犬</code>" in whole


@pytest.mark.browser
def test_a_browser_shows_all_of_it_at_two_widths_in_light_and_dark_and_asks_nobody(
    page: Contents, written: Path
) -> None:
    with chromium() as browser:
        backgrounds = set()
        for width, scheme in ((390, "dark"), (1280, "light")):
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
            said: list[str] = []
            asked: list[str] = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(written.as_uri())
            assert json.loads(tab.evaluate(CUT_OFF)) == []
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == [written.as_uri()]
            backgrounds.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2

        table = "table[data-sortable]"
        tab.click(f"{table} th:nth-child(6) button")
        column = tab.eval_on_selector_all(
            f"{table} tbody td:nth-child(6)", "all => all.map(one => +one.dataset.sort)"
        )
        assert column == sorted(column, reverse=True)
        with tab.expect_download() as download:
            tab.click("#size a.data")
        size = next(data for data in page.data() if data.name == "accuracy-by-size")
        assert Path(download.value.path()).read_bytes().decode() == size.csv()
        assert download.value.suggested_filename == "accuracy-by-size.csv"

        tab.emulate_media(media="print", color_scheme="dark")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
