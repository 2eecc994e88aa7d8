import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.routes.algebra import (
    MAX_ALPHA,
    MAX_ENTRIES,
    MAX_TERMS,
    AdapterRef,
    Combine,
    Entry,
    Model,
    Route,
    Term,
    check_alphas,
)
from model_store.routes.alpha import Alpha, by_block
from model_store.routes.text import explain_route, parse_route
from petl_vit.errors import InvalidInput

LORA, SSF, FULL = AdapterRef(name="lora"), AdapterRef(name="ssf"), AdapterRef(name="full")


def _entry(*terms: Term, weight: float = 1.0) -> Entry:
    return Entry(weight=weight, model=Model(terms=terms))


def _one(ref: AdapterRef) -> Route:
    return Route(entries=(_entry(Term(adapter=ref)),))


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("lora", _one(LORA)),
        ("(lora)", _one(LORA)),
        ("mean", _one(AdapterRef(name="mean"))),
        ("prob:3", _one(AdapterRef(name="prob", version=3))),
        ("vote@prod", _one(AdapterRef(name="vote", alias="prod"))),
        ("digits/lora@prod", _one(AdapterRef(task="digits", name="lora", alias="prod"))),
        ("digits/base", _one(AdapterRef(task="digits", name="base"))),
        ("2: ssf:3", Route(entries=(_entry(Term(adapter=AdapterRef(name="ssf", version=3)), weight=2),))),
        ("2:ssf", Route(entries=(_entry(Term(adapter=SSF), weight=2),))),
        ("-0.5*ssf", Route(entries=(_entry(Term(alpha=-0.5, adapter=SSF)),))),
        (
            "lora, 0.4*full, ssf:3",
            Route(
                entries=(
                    _entry(Term(adapter=LORA)),
                    _entry(Term(alpha=0.4, adapter=FULL)),
                    _entry(Term(adapter=AdapterRef(name="ssf", version=3))),
                )
            ),
        ),
        (
            "prob(2: lora, 1: ssf)",
            Route(
                combine=Combine.PROB,
                entries=(_entry(Term(adapter=LORA), weight=2), _entry(Term(adapter=SSF))),
            ),
        ),
        (
            " 0.5*lora+.5 * ssf ",
            Route(entries=(_entry(Term(alpha=0.5, adapter=LORA), Term(alpha=0.5, adapter=SSF)),)),
        ),
        (
            "vote (vote, mean)",
            Route(
                combine=Combine.VOTE,
                entries=(
                    _entry(Term(adapter=AdapterRef(name="vote"))),
                    _entry(Term(adapter=AdapterRef(name="mean"))),
                ),
            ),
        ),
    ],
)
def test_text_reads_as_the_algebra_says(text: str, route: Route) -> None:
    assert parse_route(text) == route


def test_brackets_and_mean_say_the_same_as_neither() -> None:
    assert parse_route("(lora, ssf)") == parse_route("mean(lora, ssf)") == parse_route("lora, ssf")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "adapter at character 1, the route ends"),
        ("lora,", "adapter at character 6, the route ends"),
        ("2 lora", "`:` and a model after a weight at character 3, found 'lora'"),
        ("0.5", "`*` and an adapter after an alpha"),
        ("ssf:x", "a version, a whole number from 1 at character 5, found 'x'"),
        ("ssf:3.5", "a version, a whole number from 1 at character 5, found '3.5'"),
        ("ssf:99999999999", "a version"),
        ("ssf:0", "0 is not a version; versions are numbers from 1 to 2147483647"),
        ("ssf:2147483648", "2147483648 is not a version; versions are numbers from 1 to 2147483647"),
        ("(lora", "`,`, `+` or `)` at character 6"),
        ("prob(lora) + ssf", "the end of the route at character 12, found '+'"),
        ("lora ssf", "or the end of the route at character 6, found 'ssf'"),
        ("lora@prod:3", "at character 10, found ':'"),
        ("lora:3@prod", "at character 7, found '@'"),
        ("a/b/c", "at character 4, found '/'"),
        ("Lora", "at character 1, found 'L'"),
        ("../etc", "at character 1, found '..'"),
        ("lora; rm", "at character 5, found ';'"),
        ("mean((lora))", "at character 6, found '('"),
        ("base:1", "has no versions or aliases"),
        ("0: lora", "not a positive finite number"),
        ("-1: lora", "not a positive finite number"),
        ("1e999*lora", "not a number from"),
        ("nan*lora", "at character 4, found '*'"),
        ("a" * 64, "is not a name"),
        ("a" * 2001, "at most 2,000 characters"),
        (", ".join(["lora"] * 17), "1 to 16 entries"),
        (" + ".join(["lora"] * 17), "1 to 16 terms"),
    ],
)
def test_an_error_says_where_and_what_was_expected(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_route(text)
    assert words in str(error.value)
    assert error.value.field is not None


names = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True) | st.sampled_from(["mean", "prob", "vote"])
finite = st.floats(-MAX_ALPHA, MAX_ALPHA)


@st.composite
def refs(draw: st.DrawFn) -> AdapterRef:
    name = draw(names)
    suffix = draw(st.sampled_from(["version", "alias", "none"])) if name != "base" else "none"
    return AdapterRef(
        name=name,
        task=draw(st.none() | names),
        version=draw(st.integers(1, 2**31 - 1)) if suffix == "version" else None,
        alias=draw(names) if suffix == "alias" else None,
    )


@st.composite
def alphas(draw: st.DrawFn) -> Alpha:
    """One for the whole model, or by block."""
    first, last = draw(finite), draw(st.none() | finite)
    blocks = draw(st.none() | st.tuples(st.integers(0, 400), st.integers(0, 400)))
    if blocks is not None and blocks[0] == blocks[1]:
        last = None
    return by_block(first, last, None if blocks is None else (min(blocks), max(blocks)))


terms = st.builds(Term, adapter=refs(), alpha=alphas())
models = st.builds(Model, terms=st.lists(terms, min_size=1, max_size=3).map(tuple))
weights = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
entries = st.lists(st.builds(Entry, model=models, weight=weights), min_size=1, max_size=3)
ensembles = st.builds(
    Route,
    entries=entries.map(tuple),
    combine=st.sampled_from([rule for rule in Combine if rule is not Combine.CASCADE]),
)
cascades = st.builds(
    Route,
    entries=st.lists(st.builds(Entry, model=models), min_size=2, max_size=3).map(tuple),
    combine=st.just(Combine.CASCADE),
    loss=st.floats(0, 1, exclude_max=True),
)
any_route = ensembles | cascades


@given(any_route.filter(lambda route: len(str(route)) <= 2000))
def test_what_is_printed_reads_back_as_the_same_route(route: Route) -> None:
    assert parse_route(str(route)) == route


@given(st.text(alphabet="lorab0.5e-+*:/@,();<=[] \n\tàL", max_size=30))
def test_any_text_is_a_route_or_an_invalid_input(text: str) -> None:
    try:
        route = parse_route(text)
    except InvalidInput:
        return
    assert parse_route(str(route)) == route


def test_canonical_text_leaves_ones_out() -> None:
    assert str(parse_route("prob( 2:lora , 1: 1.0*ssf )")) == "prob(2: lora, ssf)"


@pytest.mark.parametrize("alpha", [-0.01, 1.01])
def test_an_alpha_outside_the_unit_interval_needs_extrapolation(alpha: float) -> None:
    route = Route(entries=(_entry(Term(alpha=alpha, adapter=LORA)),))
    with pytest.raises(InvalidInput) as error:
        check_alphas(route, extrapolate=False)
    assert error.value.field == "alpha"
    check_alphas(route, extrapolate=True)
    check_alphas(parse_route("0*lora + 1*ssf"), extrapolate=False)


def test_typed_routes_are_held_to_the_same_limits() -> None:
    term = Term(adapter=LORA)
    with pytest.raises(InvalidInput, match="entries"):
        Route(entries=())
    with pytest.raises(InvalidInput, match="entries"):
        Route(entries=(_entry(term),) * (MAX_ENTRIES + 1))
    with pytest.raises(InvalidInput, match="terms"):
        Model(terms=(term,) * (MAX_TERMS + 1))
    with pytest.raises(InvalidInput, match="not a name"):
        AdapterRef(name="../escape")
    with pytest.raises(InvalidInput, match="both a version and an alias"):
        AdapterRef(name="lora", version=1, alias="prod")
    with pytest.raises(InvalidInput, match="not a number from"):
        Term(adapter=LORA, alpha=math.nan)
    with pytest.raises(InvalidInput, match="weight"):
        _entry(term, weight=math.inf)


def test_a_route_knows_its_adapters_and_whether_it_is_one() -> None:
    assert parse_route("lora, 0.4*full + lora").adapters == (LORA, FULL)
    assert parse_route("lora").single == LORA
    assert parse_route("0.5*lora").single is None
    assert parse_route("lora, ssf").single is None


def test_a_route_is_explained_in_words() -> None:
    lines = explain_route(parse_route("prob(3: lora@prod, 0.4*base)"), "digits")
    assert lines[0] == "mean of the probabilities of 2 models"
    assert "75%  adapter lora of task digits, alias prod" in lines[1]
    assert "25%  alpha 0.4" in lines[2]
    assert "frozen backbone with the base head of task digits" in lines[2]


def test_routes_import_no_torch() -> None:
    code = "import sys, model_store.routes.algebra; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
