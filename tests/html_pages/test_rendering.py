"""How text becomes part of a page."""

from html_pages.rendering import code


def test_text_between_backticks_is_code_and_nothing_in_it_is_markup() -> None:
    assert code("type `a<b` & <i>") == "type <code>a&lt;b</code> &amp; &lt;i&gt;"


def test_a_number_keeps_its_per_cent_sign_on_its_line() -> None:
    assert code("1 % of 20 %") == "1\u00a0% of 20\u00a0%"
