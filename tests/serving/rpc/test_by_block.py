"""Alphas by block over gRPC: by text and typed, beside others, and refused. The backbone has 2 blocks."""

from typing import Any

import numpy as np
import pytest
import torch

from model_store.resolution.loading import Loader
from petl_vit.batch import Batch, Row
from petl_vit.preprocess import preprocess
from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.blocking import Client
from tests.serving.rpc.requests import ask, refused, values
from tests.serving.world import PREPROCESS, SIZE, World, encoded


def typed(**alpha: Any) -> pb.Route:
    term = pb.Term(adapter=pb.AdapterRef(name="lora"), **alpha)
    return pb.Route(entries=[pb.Entry(model=pb.Model(terms=[term]))])


def computed(world: World, text: str) -> np.ndarray[Any, Any]:
    """[1, C]: the probabilities of a route of one model, without a server."""
    loader = Loader(world.store, world.backbone)
    (model,) = loader.models(world.resolve(text))
    images = torch.as_tensor(preprocess(encoded(0), PREPROCESS)).unsqueeze(0)
    (logits,) = Batch(loader.vit(SIZE)).logits(images, [Row(image=0, model=model)])
    return logits.softmax(dim=-1).unsqueeze(0).numpy()


@pytest.mark.parametrize(
    ("text", "alpha"),
    [
        ("0.6[1]*lora", {"alpha": 0.6, "blocks": pb.BlockRange(first=1, last=1)}),
        ("1[0]*lora", {"blocks": pb.BlockRange()}),
        ("0.2..0.9*lora", {"alpha": 0.2, "last_alpha": 0.9}),
        ("0.6*lora", {"alpha": 0.6, "blocks": pb.BlockRange(first=0, last=1)}),
    ],
)
def test_typed_and_written_alphas_are_the_same_model(
    client: Client, world: World, text: str, alpha: dict[str, Any]
) -> None:
    by_text, by_type = (ask(client, route, probabilities=True) for route in (text, typed(**alpha)))
    assert by_text.route == by_type.route == text.replace("lora", "lora:2")
    np.testing.assert_allclose(values(by_type), values(by_text), atol=1e-6)
    np.testing.assert_allclose(values(by_text), computed(world, text), atol=1e-5)


def test_members_by_block_answer_beside_others(client: Client, world: World) -> None:
    members = ["0.3[0]*lora + 0.9[1]*lora", "0.2..1*vpt-deep", "full", "0.5*vqt"]
    answer = ask(client, f"prob({', '.join(members)})", probabilities=True)
    assert answer.route == "prob(0.3[0]*lora:2 + 0.9[1]*lora:2, 0.2..1*vpt-deep:1, full:1, 0.5*vqt:1)"
    expected = np.mean([computed(world, text) for text in members], axis=0)
    np.testing.assert_allclose(values(answer), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("route", "field", "words"),
    [
        ("0.6[0-2]*lora", "blocks", "names block 2, and backbone tiny has 2 blocks"),
        ("0.6[1-0]*lora", "blocks", "ends before it begins"),
        ("0.2..1.5*lora", "alpha", "lies outside [0, 1]"),
        ("0.2..1*vpt-shallow", "alpha", "vpt-shallow:1 (vpt_shallow) pass through all blocks"),
        ("0.6[0]*vqt", "alpha", "vqt:1 (vqt) pass through all blocks"),
        (typed(blocks=pb.BlockRange(first=3, last=1)), "blocks", "ends before it begins"),
        (typed(alpha=float("nan"), last_alpha=1.0), "alpha", "not a number"),
        (typed(alpha=0.1, last_alpha=0.2, blocks=pb.BlockRange()), "alpha", "block 0 has one alpha"),
    ],
)
def test_alphas_that_cannot_be_are_refused(client: Client, route: Any, field: str, words: str) -> None:
    assert words in str(refused(client, "INVALID_ARGUMENT", field, route=route))
