import pytest

from model_store.routes.algebra import MAX_ENTRIES, AdapterRef, Entry, Model, Route, Term
from model_store.routes.text import explain_route, parse_route
from petl_vit.combine import Combine
from petl_vit.errors import InvalidInput


def _entries(*names: str) -> tuple[Entry, ...]:
    return tuple(Entry(model=Model(terms=(Term(adapter=AdapterRef(name=name)),))) for name in names)


def test_a_cascade_reads_and_prints_with_its_loss() -> None:
    text = "cascade(lora, 0.5*ssf:2, a + b; loss<=0.002)"
    route = parse_route("cascade( lora,0.5*ssf:2, a+b ;loss <= 2e-3 )")
    assert (route.combine, route.loss, len(route.entries)) == (Combine.CASCADE, 0.002, 3)
    assert str(route) == text
    assert parse_route(text) == route
    assert str(route.with_terms(route.terms)) == text


def test_an_adapter_may_be_named_cascade_or_loss() -> None:
    assert parse_route("cascade:3, loss").adapters == (
        AdapterRef(name="cascade", version=3),
        AdapterRef(name="loss"),
    )
    assert str(parse_route("cascade(cascade, loss; loss<=0)")) == "cascade(cascade, loss; loss<=0)"


def test_a_cascade_is_explained_in_words() -> None:
    lines = explain_route(parse_route("cascade(lora, ssf:3; loss<=0.002)"), "digits")
    assert lines == [
        "cascade of 2 models: asked one after another until the answer is settled; mean of the logits of "
        "those asked; to lose at most 0.002 of accuracy against asking all",
        "  adapter lora of task digits, alias latest",
        "  adapter ssf of task digits, version 3",
    ]


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("cascade(lora; loss<=0.002)", "route", "nobody to ask next"),
        ("cascade(2: lora, ssf; loss<=0.002)", "route", "no weights, and lora has 2"),
        ("cascade(lora, ssf)", "loss", "states no loss"),
        ("cascade(lora, ssf; loss<=1)", "loss", "loss 1.0, which is not from 0 to below 1"),
        ("cascade(lora, ssf; loss<=-0.1)", "loss", "loss -0.1"),
        ("cascade(lora, ssf; loss<=1e999)", "loss", "loss inf"),
        ("cascade(lora, ssf; loss<=nan)", "route", "expected `loss<=` and a number such as 0.002"),
        ("cascade(lora, ssf; loss<0.1)", "route", "expected `loss<=`"),
        ("cascade(lora, ssf; cost<=0.1)", "route", "expected `loss<=`"),
        ("cascade(lora, ssf; loss<=0.1, full)", "route", "expected `)`"),
        ("mean(lora, ssf; loss<=0.1)", "route", "expected `,`, `+` or `)`"),
        ("cascade(cascade(a, b; loss<=0), c; loss<=0)", "route", "routes do not nest"),
        ("prob(cascade(a, b; loss<=0), c)", "route", "routes do not nest"),
        ("lora, cascade(a, b; loss<=0)", "route", "routes do not nest"),
        (
            f"cascade({', '.join(f'm{i}' for i in range(MAX_ENTRIES + 1))}; loss<=0)",
            "route",
            f"1 to {MAX_ENTRIES} entries",
        ),
    ],
)
def test_a_cascade_that_cannot_be_is_refused_by_what_is_wrong(text: str, field: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as error:
        parse_route(text)
    assert error.value.field == field
    assert problem in error.value.problem


def test_a_typed_cascade_is_held_to_the_same_limits() -> None:
    with pytest.raises(InvalidInput, match="states no loss"):
        Route(entries=_entries("a", "b"), combine=Combine.CASCADE)
    with pytest.raises(InvalidInput, match="loss nan"):
        Route(entries=_entries("a", "b"), combine=Combine.CASCADE, loss=float("nan"))
    with pytest.raises(InvalidInput, match="only a cascade has a loss"):
        Route(entries=_entries("a", "b"), loss=0.1)
