"""Requests of the client, and the errors they must get."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from tests.serving.world import (
    encoded,
)


def ask(client: Client, route: Any, *images: bytes, task: str = "shapes", **options: Any) -> Any:
    return client.classify(list(images or (encoded(0),)), route=route, task=task, **options)


def refused(client: Client, code: str, field: str | None, **request: Any) -> RequestFailed:
    """The error of a request that must fail so."""
    chosen: dict[str, Any] = {"images": [encoded(0)], "route": "lora", "task": "shapes"}
    with pytest.raises(RequestFailed) as caught:
        client.send(request_of(**(chosen | request)))
    assert (caught.value.code, caught.value.named_field) == (code, field), str(caught.value)
    assert "Traceback" not in str(caught.value)
    return caught.value


def typed(*members: tuple[float | None, Sequence[tuple[float | None, str]]], combine: Any = 0) -> pb.Route:
    """A typed route of (weight, [(alpha, adapter name)])."""
    return pb.Route(
        combine=combine,
        entries=[
            pb.Entry(
                weight=weight,
                model=pb.Model(
                    terms=[pb.Term(alpha=a, adapter=pb.AdapterRef(name=name)) for a, name in terms]
                ),
            )
            for weight, terms in members
        ],
    )


def values(response: pb.ClassifyResponse) -> np.ndarray[Any, Any]:
    return np.array([list(result.probabilities) for result in response.results])
