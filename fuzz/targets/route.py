"""Routes as text: what is read is read the same again from its own spelling, or is `InvalidInput`."""

from model_store.routes.text import explain_route, parse_adapter, parse_route
from petl_vit.errors import InvalidInput


def seeds() -> list[bytes]:
    texts = (
        "lora",
        "0.6*lora@prod",
        "digits/lora:3, ssf",
        "prob(2: lora, 1: 0.5*ssf + 0.5*bitfit)",
        "vote(a, b, c)",
        "cascade(lora, ssf; loss <= 0.01)",
        "mean(base, -0.5*lora)",
        "1e-3*lora",
        "0.3[0-5]*lora + 0.9[6-11]*lora, 0.2..1*ssf",
    )
    return [text.encode() for text in texts]


def check(data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        route = parse_route(text)
    except InvalidInput:
        pass
    else:
        assert parse_route(str(route)) == route, str(route)
        explain_route(route, "task")
    try:
        adapter = parse_adapter(text)
    except InvalidInput:
        return
    assert parse_adapter(str(adapter)) == adapter
