"""A status as lines of a terminal."""

from rich.console import Console

from corolla.watching import View, sparkline
from serving.monitor.status import RouteStatus, Status
from tests.serving.monitor.statuses import REFERENCE, alarming, full, hostile, status, watched


def shown(what: Status | View, width: int = 240, encoding: str = "utf-8") -> str:
    """What a terminal of that width shows."""

    class Terminal(Console):
        @property
        def encoding(self) -> str:
            return encoding

    console = Terminal(width=width, markup=False, emoji=False, highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(what if isinstance(what, View) else View(status=what))
    return captured.get().replace("\u00a0", " ")


def row(text: str, *words: str) -> str:
    """The only line with all of these words."""
    (line,) = [line for line in text.splitlines() if all(word in line for word in words)]
    return line


def test_a_line_says_all_of_a_route_in_a_domain() -> None:
    line = row(shown(full()), "birds/best", "photo")
    assert line.split()[:3] == ["birds/best", "photo", "3,204"]
    for part in ("94.0 %  ▄▄", "95.0 %", "93.0 % (92.0 to 96.0)", "92.0 % (90.0 to 95.0) of 212", "no alarm"):
        assert part in line


def test_an_alarm_is_told_above_the_table_and_in_its_line() -> None:
    text = shown(full())
    assert "1 alarm on 1 route with a reference." in text
    assert row(text, "! birds/best in sketch: shift: members disagree; evidence 10^4.3")
    line = row(text, "sketch", "alarm: shift", "71.0 %?")
    assert text.index("! birds/best") < text.index(line)


def test_routes_without_a_reference_or_images_say_so_and_what_to_type() -> None:
    text = shown(full())
    assert "no reference" in row(text, "birds/lora", "120")
    assert "no images yet" in row(text, "birds/next", "images")
    assert row(text, "corolla routes reference lora --task birds")
    assert "cartoon" not in text


def test_without_any_route_it_says_how_to_begin() -> None:
    text = shown(status())
    assert "No images yet." in text
    assert "corolla routes put best" in text


def test_what_is_missing_or_old_is_told() -> None:
    what = status(RouteStatus(route="birds/best", domains=(watched(),)), problems=("a replica is down",))
    text = shown(View(status=what, late="it does not answer"))
    assert "problem: a replica is down" in text
    assert "these numbers are old: it does not answer" in text


def test_it_fits_into_narrower_terminals_with_less() -> None:
    what = status(RouteStatus(route="birds/best", reference=REFERENCE, domains=(watched(),)))
    wide, middle, narrow = (row(shown(what, width), "birds/best", "photo") for width in (240, 130, 80))
    assert "▄▄▄" in wide
    assert "▄" not in middle
    assert "(92.0 to 96.0)" in middle
    assert "(92.0 to 96.0)" not in narrow
    assert "93.0 %" in narrow
    assert max(map(len, shown(full(), 80).splitlines())) <= 80


def test_a_terminal_that_cannot_draw_blocks_gets_numbers_alone() -> None:
    assert "▄" not in shown(full(), encoding="ascii")


def test_more_lines_than_the_terminal_has_show_alarms_first() -> None:
    calm = tuple(watched(f"site-{number}") for number in range(30))
    what = status(RouteStatus(route="birds/best", reference=REFERENCE, domains=(*calm, alarming())))
    text = shown(View(status=what, most=5))
    assert "alarm: shift" in text
    assert "and 26 more; --route chooses" in text


def test_names_steer_neither_markup_nor_the_terminal() -> None:
    text = shown(hostile("\x1b[2J[red]x[/red]\x07\n"))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[2J[red]x[/red]" in text


def test_a_sparkline_is_as_wide_as_asked_and_leaves_gaps() -> None:
    assert sparkline([0.0, 0.5, 1.0], 0.0, 1.0) == "▁▅█"
    assert sparkline([0.0, None, 1.0], 0.0, 1.0) == "▁ █"
    assert sparkline([0.0, 1.0] * 60, 0.0, 1.0, 4) == "▅▅▅▅"
    assert sparkline([0.3], 0.3, 0.3) == "█"
    assert sparkline([], 0.0, 1.0) == ""
