"""The status page: what it says, and what it says where there is nothing."""

import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from serving.monitor.page.render import html
from serving.monitor.status import RouteStatus, Status
from tests.serving.monitor.statuses import (
    NOW,
    REFERENCE,
    alarming,
    full,
    hostile,
    status,
    unlabelled,
    watched,
)


class Elements(HTMLParser):
    """The start tags of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words)).replace("\u00a0", " ")


def shown(what: Status) -> str:
    """The text of its page."""
    return Elements(html(what, every_s=10).partition("<body>")[2].partition("<script>")[0]).text


def test_a_watched_domain_has_its_estimate_with_a_band_and_its_measurement_with_an_interval() -> None:
    text = shown(status(RouteStatus(route="birds/best", reference=REFERENCE, domains=(watched(),))))
    assert "No alarm on 1 route with a reference." in text
    assert "Estimated accuracy 93.0 % 92.0 to 96.0" in text
    assert "Measured accuracy 92.0 % 90.0 to 95.0, 212 labels" in text
    assert "as they are, the labels say 90.0 %" in text
    assert "93.1 % right on 1,240 labelled images (photos/val)" in text
    assert "Images 3,204 in the last hour, of 48,210" in text
    assert "Agreement 95.0 % 95.7 % on the reference" in text
    assert "agreement line (ALine-D) 83.0 % (73.0 to 93.0) not used: R² of the agreement line is 0.41" in text


def test_an_alarm_stands_in_the_title_at_the_top_and_in_its_card() -> None:
    what = status(RouteStatus(route="birds/best", reference=REFERENCE, domains=(watched(), alarming())))
    page = html(what, every_s=10)
    line = "shift: members disagree; evidence 10^4.3, threshold 10^2.6; raised 07:40 UTC after 840 images"
    assert "<title>1 alarm · Corolla</title>" in page
    assert page.count(line) == 2
    assert "birds/best in sketch" in shown(what)
    assert "Do not rely on it: the methods differ by 22 points." in shown(what)


def test_a_route_without_a_reference_says_which_command_measures_one() -> None:
    raw = watched(headline=None, estimates=(), line=None, evidence={}, threshold=None)
    text = shown(status(RouteStatus(route="birds/two words", domains=(raw,))))
    assert "No route has a reference, so nothing can raise an alarm." in text
    assert "corolla routes reference 'two words' --task birds" in text
    assert "Estimated accuracy none no reference" in text
    assert "Confidence 94.0 %" in text


@pytest.mark.parametrize("known", [True, False])
def test_a_reference_that_cannot_be_used_is_told_with_the_reason(known: bool) -> None:
    stale = REFERENCE.model_copy(update={"stale": True}) if known else None
    problem = "the route is not what its reference was measured on"
    route = RouteStatus(
        route="birds/best", reference=stale, unusable=True, problem=problem, domains=(watched(),)
    )
    text = shown(status(route))
    assert problem in text
    assert "reference not usable" in text
    assert "No route has a reference" in text


def test_a_domain_without_labels_says_so_and_the_page_how_to_send_some() -> None:
    text = shown(status(RouteStatus(route="birds/best", reference=REFERENCE, domains=(unlabelled(),))))
    assert "Measured accuracy none no labels in the last day" in text
    assert "corolla feedback PREDICTION_ID CLASS" in text


def test_without_any_route_it_says_how_to_begin() -> None:
    text = shown(status())
    assert "No images yet." in text
    assert "No route yet" in text
    assert "corolla routes put best" in text


def test_routes_without_images_are_listed_with_what_they_lack() -> None:
    text = shown(
        status(RouteStatus(route="birds/a", reference=REFERENCE), RouteStatus(route="birds/b", domains=()))
    )
    assert "Send one: corolla classify photo.jpg" in text
    assert "birds/a: Compared with its reference 4be100000000" in text
    assert "birds/b: It has no reference" in text


def test_what_is_missing_or_wrong_is_told_above_all_numbers() -> None:
    problem = "http://localhost:9090 does not answer: connection refused"
    text = shown(status(RouteStatus(route="birds/best", domains=(watched(),)), problems=(problem,)))
    assert text.index(problem) < text.index("Estimated accuracy")


def test_a_page_of_very_many_domains_shows_alarms_first_and_says_how_many_are_left_out() -> None:
    calm = tuple(watched(f"site-{number}", history=(), members=()) for number in range(120))
    what = status(RouteStatus(route="birds/best", reference=REFERENCE, domains=(*calm, alarming())))
    page = html(what, every_s=10)
    assert page.count("<article") == 100
    assert "birds/best in sketch" in shown(what)
    assert "21 domains more: status.json" in shown(what)


@pytest.mark.parametrize(
    "name", ["</style><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "`<b>&'"]
)
def test_names_are_shown_and_never_read_as_markup(name: str) -> None:
    before = Elements(html(hostile("name"), every_s=10))
    elements = Elements(html(hostile(name), every_s=10))
    tags = [tag for tag, _ in elements.found]
    assert [tag for tag in tags if tag != "code"] == [tag for tag, _ in before.found if tag != "code"]
    assert "onerror" not in {key for _, attributes in elements.found for key in attributes}
    assert name.replace("`", "") in elements.text.replace("`", "")


def test_it_asks_for_nothing_and_headings_ids_and_plots_are_in_order() -> None:
    page = html(full(), every_s=10)
    elements = Elements(page)
    assert not [a for tag, a in elements.found if tag in ("img", "iframe", "object", "embed")]
    links = [str(a.get("href")) for tag, a in elements.found if tag in ("a", "link")]
    assert {link for link in links if link[0] != "#"} == {"data:,", "status.json", "metrics"}
    ids = [a["id"] for _, a in elements.found if a.get("id")]
    assert len(ids) == len(set(ids))
    assert all(link[1:] in ids for link in links if link[0] == "#")
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    plots = [a for tag, a in elements.found if tag == "svg"]
    assert plots
    assert all(one.get("aria-label") or one.get("aria-hidden") for one in plots)
    assert not re.search(r"\b(nan|None|undefined)\b", page.partition("</style>")[2].partition("<script>")[0])


def test_a_card_has_the_same_id_at_every_look() -> None:
    one, other = watched("photo"), watched("sketch")
    pages = [
        html(status(RouteStatus(route="birds/best", domains=domains)), every_s=10)
        for domains in ((one, other), (other, one))
    ]
    ids = [sorted(re.findall(r'<article class="card" id="(\w+)"', page)) for page in pages]
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 2


def test_times_are_said_with_their_zone() -> None:
    assert NOW == 1_800_000_000
    assert "2027-01-15 08:00:00 UTC" in shown(status())
