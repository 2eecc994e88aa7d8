"""The status page in a real browser: at two widths, in light and dark, and read again in place."""

import json
import re
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from serving.metrics.port import MetricsPort
from serving.monitor.pages import StatusPages
from serving.monitor.status import Status
from tests.chromium import CUT_OFF, chromium
from tests.serving.monitor.statuses import full, hostile, status
from tests.waiting import WAIT_S

STATUSES = {
    "full": full(),
    "empty": status(),
    "hostile": hostile('"><img src=x onerror=alert(1)></style><script>alert(1)</script>' + 30 * "long"),
}


class Served:
    """A port that shows one status, which may change."""

    def __init__(self) -> None:
        self.now: Status = status()
        pages = StatusPages(lambda: self.now, fresh_s=0.0, every_s=0.5).pages
        self.port = MetricsPort(CollectorRegistry(), port=0, pages=pages)
        self.url = f"http://127.0.0.1:{self.port.port}/"


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.port.close()


@pytest.mark.browser
def test_a_browser_shows_all_of_it_at_two_widths_in_light_and_dark_and_keeps_it_fresh(served: Served) -> None:
    with chromium() as browser:
        backgrounds = set()
        for width, scheme in ((390, "dark"), (1280, "light")):
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            context.set_default_timeout(1000 * WAIT_S)
            tab = context.new_page()
            said: list[str] = []
            asked: set[str] = set()
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.add(request.url))
            for name, now in STATUSES.items():
                served.now = now
                tab.goto(served.url)
                tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
                assert json.loads(tab.evaluate(CUT_OFF)) == [], (name, width)
            assert said == []
            assert {url for url in asked if not url.startswith("data:")} == {served.url}
            backgrounds.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2

        served.now = full()
        tab.goto(served.url)
        tab.evaluate("document.querySelector('details').open = true")
        served.now = full().model_copy(update={"source": "another server"})
        tab.wait_for_selector("text=another server")
        assert tab.eval_on_selector_all("details[open]", "all => all.length") == 1
        assert tab.title() == "1 alarm · Corolla"
        assert not tab.is_visible("#late")

        tab.emulate_media(media="print", color_scheme="dark")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        tab.emulate_media(media="screen", color_scheme="light")
        served.port.close()
        tab.wait_for_selector("#late:visible")
        assert re.match("These numbers are old", tab.inner_text("#late"))
