import pytest

from corolla.commands.routes import routes
from petl_vit.errors import InvalidInput, NotFound
from tests.corolla.runner import document, printed
from tests.model_store.world import World


def test_an_empty_store_says_what_to_type_next(stored: World) -> None:
    assert "corolla routes put" in printed(routes, "list", store=stored.folder)
    assert document(routes, "list", store=stored.folder) == []


def test_a_route_is_put_with_its_reading_shown_and_deleted(published: World) -> None:
    store = published.folder
    said = printed(routes, "put", "both", "prob(2: lora, 0.4*ssf + base)", store=store)
    assert "route digits/both = prob(2: lora:1, 0.4*ssf:1 + base)" in said
    assert "67%  adapter lora of task digits, version 1" in said
    assert "temperature 1:" in said
    assert "meaning" in printed(routes, "show", "both", store=store)
    assert document(routes, "list", store=store)[0]["route"] == "prob(2: lora:1, 0.4*ssf:1 + base)"
    printed(routes, "delete", "both", store=store)
    with pytest.raises(NotFound):
        printed(routes, "show", "both", store=store)


def test_a_route_that_shadows_an_adapter_says_so(published: World) -> None:
    said = printed(routes, "put", "lora", "ssf", store=published.folder)
    assert said.splitlines()[-1].endswith("the adapter of that name is lora@latest")
    assert "note" not in printed(routes, "put", "other", "ssf", store=published.folder)
    assert document(routes, "put", "ssf", "lora:1", store=published.folder)["shadows_adapter"]
    assert document(routes, "delete", "ssf", store=published.folder) == {"task": "digits", "name": "ssf"}


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("lora", (), 1.7),
        ("0.5*lora", (), 1.0),
        ("lora, ssf", (), 1.0),
        ("base", (), 1.0),
        ("lora", ("--temperature", "2.5"), 2.5),
    ],
)
def test_a_routes_temperature_is_the_fitted_one_of_a_single_adapter(
    published: World, text: str, words: tuple[str, ...], expected: float
) -> None:
    assert f"temperature {expected:g}:" in printed(routes, "put", "r", text, *words, store=published.folder)
    assert published.store.routes.get("digits", "r").temperature == expected


def test_a_route_that_cannot_answer_is_not_kept(published: World) -> None:
    store = published.folder
    letters = published.store.tasks.put(published.spec("letters", ("a", "b")), published.head(1.0))
    published.store.adapters.publish(published.draft("other", letters), published.adapter(1.0))
    for text, error, words in (
        ("lora, nothing", NotFound, "no adapter 'nothing'"),
        ("lora,", InvalidInput, "character 6"),
        ("2*lora", InvalidInput, "outside"),
        ("lora, letters/other", InvalidInput, "different classes"),
        ("lora + letters/other", InvalidInput, "different tasks"),
    ):
        with pytest.raises(error, match=words):
            printed(routes, "put", "r", text, "--task", "digits", store=store)
    with pytest.raises(InvalidInput, match="not a number"):
        printed(routes, "put", "r", "lora", "--task", "digits", "--temperature", "hot", store=store)
    with pytest.raises(InvalidInput):
        printed(routes, "put", "r", "lora", "--task", "digits", "--temperature", "-1", store=store)
    assert published.store.routes.list() == []
    printed(routes, "put", "r", "2*lora", "--task", "digits", "--extrapolate", store=store)
