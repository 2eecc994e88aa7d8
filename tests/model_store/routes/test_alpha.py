"""Alphas by block in the text of routes: what they mean, how they are written, and what is refused."""

import math

import pytest

from model_store.routes.algebra import MAX_TERMS, AdapterRef, Term, check_alphas
from model_store.routes.alpha import Alpha, ByBlock, by_block, over, times, values
from model_store.routes.text import explain_route, parse_route
from petl_vit.errors import InvalidInput


def alpha_in(text: str) -> Alpha:
    (term,) = parse_route(text).terms
    return term.alpha


def in_blocks(text: str, depth: int) -> float | tuple[float, ...]:
    return values(over(alpha_in(text), depth, of="lora", backbone="backbone b"))


@pytest.mark.parametrize(
    ("text", "depth", "alphas"),
    [
        ("0.6[0-1]*lora", 4, (0.6, 0.6, 0, 0)),
        ("0.6 [ 2 - 3 ] * lora", 4, (0, 0, 0.6, 0.6)),
        ("1[2]*lora", 4, (0, 0, 1, 0)),
        ("0..1*lora", 5, (0, 0.25, 0.5, 0.75, 1)),
        ("0.2..1*lora", 2, (0.2, 1)),
        ("1..0.5[1-3]*lora", 4, (0, 1, 0.75, 0.5)),
        ("0.2..1*lora", 1, (0.2,)),
    ],
)
def test_an_alpha_is_one_of_every_block(text: str, depth: int, alphas: tuple[float, ...]) -> None:
    assert in_blocks(text, depth) == pytest.approx(alphas)


def test_lines_grows_from_alpha_to_alpha_plus_beta() -> None:
    """LiNeS, arXiv 2410.17146: alpha + beta (l - 1) / (L - 1) in layer l of L."""
    alpha, beta, layers = 0.3, 0.6, 12
    expected = [alpha + beta * (layer - 1) / (layers - 1) for layer in range(1, layers + 1)]
    assert in_blocks("0.3..0.9*lora", layers) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["0.6[0-11]*lora", "0.6..0.6*lora", "0.6..0.6[0-11]*lora", "0.6*lora"])
def test_one_alpha_over_all_blocks_is_that_alpha(text: str) -> None:
    assert over(alpha_in(text), 12, of="lora", backbone="backbone b") == 0.6


def test_nothing_in_some_blocks_is_nothing_at_all() -> None:
    assert in_blocks("0[3-5]*lora", 12) == 0


def test_the_whole_range_is_left_out_once_the_depth_is_known() -> None:
    assert str(over(alpha_in("0..1[0-11]*lora"), 12, of="lora", backbone="backbone b")) == "0..1"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0.60[07]*lora", "0.6[7]*lora"),
        ("1.0[0-5]*lora", "1[0-5]*lora"),
        ("1..2*lora", "1..2*lora"),
        (".5..0.75*lora", "0.5..0.75*lora"),
        ("1e-3..1.*lora", "0.001..1*lora"),
        ("2: 0.3[0-5]*lora + 0.9[6-11]*lora, ssf", "2: 0.3[0-5]*lora + 0.9[6-11]*lora, ssf"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert str(parse_route(text)) == canonical


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.6[5-2]*lora", "no block lies in [5-2], which ends before it begins; write [2-5]"),
        ("0.6[-1-3]*lora", "expected blocks such as `[0-5]` or `[7]`, which count from 0 at character 4"),
        ("0.6[1.5]*lora", "expected blocks such as"),
        ("0.6[0-5*lora", "expected blocks such as"),
        ("0.6[]*lora", "expected blocks such as"),
        ("0.6[0-5]lora", "expected `*` and an adapter"),
        ("[0-5]*lora", "expected the name of an adapter at character 1"),
        ("lora[0-5]", "the end of the route at character 5, found '[0-5]'"),
        ("0.2..*lora", "the alpha of the last block after `..`, which begins with a digit, at character 6"),
        ("0.2...1*lora", "which begins with a digit, at character 6, found '.1'"),
        ("0.2..1[3]*lora", "block 3 has one alpha, and 0.2..1 are two; write 1[3]"),
        ("0.2..1e999*lora", "alpha inf of lora is not a number from -100 to 100"),
        ("-200[1]*lora", "alpha -200.0 of lora is not a number from -100 to 100"),
        ("0.6[0-5]: lora", "expected `*` and an adapter"),
    ],
)
def test_an_error_says_what_is_wrong_with_the_blocks(text: str, words: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_route(text)
    assert words in str(error.value)


def test_typed_alphas_are_held_to_the_same_limits() -> None:
    lora = AdapterRef(name="lora")
    with pytest.raises(InvalidInput, match="there is no block -1"):
        by_block(0.5, blocks=(-1, 3))
    for first, last in ((math.nan, 1.0), (0.0, math.nan), (0.0, 101.0)):
        with pytest.raises(InvalidInput, match="not a number from"):
            Term(adapter=lora, alpha=ByBlock(first=first, last=last))


def test_blocks_beyond_the_depth_name_the_depth() -> None:
    with pytest.raises(InvalidInput) as error:
        in_blocks("0.6[6-12]*lora", 12)
    assert error.value.field == "blocks"
    assert "0.6[6-12]*lora names block 12, and backbone b has 12 blocks" in error.value.problem
    assert "[0-11]" in str(error.value.remedy)


def test_too_many_parts_are_too_many_terms() -> None:
    with pytest.raises(InvalidInput, match="1 to 16 terms"):
        parse_route(" + ".join(f"0.5[{block}]*lora" for block in range(MAX_TERMS + 1)))


@pytest.mark.parametrize("text", ["0.5..1.2*lora", "-0.1..1*lora", "1.5[0-3]*lora"])
def test_every_block_needs_extrapolation_beyond_the_unit_interval(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"lies outside \[0, 1\]"):
        check_alphas(parse_route(text), extrapolate=False)
    check_alphas(parse_route(text), extrapolate=True)


def test_an_alpha_by_block_is_multiplied_in_every_block() -> None:
    assert times(alpha_in("0.2..1[2-4]*lora"), 0.5) == by_block(0.1, 0.5, (2, 4))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0.2..1*lora", "alpha 0.2 in the first block to 1 in the last, from the frozen model towards"),
        ("0.6[0-5]*lora", "alpha 0.6 in blocks 0 to 5, 0 in the others, from the frozen model towards"),
        ("0.6[7]*lora", "alpha 0.6 in block 7, 0 in the others, from"),
        ("0.3..0.9[6-11]*lora", "alpha 0.3 in block 6 to 0.9 in block 11, 0 in the others, from"),
    ],
)
def test_alphas_by_block_are_explained_in_words(text: str, words: str) -> None:
    assert words in explain_route(parse_route(text), "digits")[0]
