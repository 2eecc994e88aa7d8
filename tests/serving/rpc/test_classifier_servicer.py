"""corolla.v1.Classifier over a real channel: what can be asked, and what is said to bad requests."""

import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from PIL import Image

from model_store.format.records import Draft
from petl_vit.preprocess import preprocess
from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from serving.engine.priority import Priority
from serving.request import MAX_CLIENT
from serving.rpc.classifier_servicer import MAX_LABELS
from tests.serving.world import (
    CONFIG,
    DEADLINE_S,
    METHODS,
    PREPROCESS,
    REORDERED,
    SHAPES,
    SIZE,
    WAIT_S,
    Running,
    World,
    backbone_tensors,
    encoded,
    pixels,
    until,
)


@pytest.fixture(scope="module")
def client(running: Running) -> Any:
    with running.client() as client:
        yield client


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


# What can be asked


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        *((method, f"{method}:{2 if method == 'lora' else 1}") for method in METHODS),
        ("base", "base"),
        ("lora:1", "lora:1"),
        ("lora@prod", "lora:1"),
        ("0.6*full", "0.6*full:1"),
        ("0.5*lora + 0.25*ssf", "0.5*lora:2 + 0.25*ssf:1"),
        ("lora, 0.4*full, ssf:1", "lora:2, 0.4*full:1, ssf:1"),
        ("prob(2: lora, 1: ssf)", "prob(2: lora:2, ssf:1)"),
        ("vote(lora, ssf, bitfit)", "vote(lora:2, ssf:1, bitfit:1)"),
        ("best", "lora:2, ssf:1, 0.5*bitfit:1"),
    ],
)
def test_every_kind_of_route_is_answered_with_its_resolved_versions(
    client: Client, text: str, resolved: str
) -> None:
    response = ask(client, text, encoded(1), encoded(2), probabilities=True, members=True)

    assert response.route == resolved
    assert len(response.backbone_digest) == 64
    for result in response.results:
        assert sum(result.probabilities) == pytest.approx(1, abs=1e-6)
        best = max(score.probability for score in result.top)
        assert result.top[0].probability == pytest.approx(best)
        said = [member.top.class_index for member in result.members]
        assert result.agreement == pytest.approx(np.mean(np.array(said) == result.top[0].class_index))
        assert ", ".join(member.member for member in result.members) in resolved.replace("2: ", "")
        assert result.entropy >= 0
        assert result.mutual_information >= 0


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("lora", typed((None, [(None, "lora")]))),
        ("0.6*lora", typed((1, [(0.6, "lora")]))),
        ("0*lora, ssf", typed((None, [(0, "lora")]), (None, [(None, "ssf")]))),
        ("0.5*lora + 0.5*full", typed((None, [(0.5, "lora"), (0.5, "full")]))),
        (
            "prob(2: lora, ssf)",
            typed((2, [(None, "lora")]), (None, [(None, "ssf")]), combine=pb.COMBINE_PROB),
        ),
        (
            "vote(lora, ssf, full)",
            typed(*((None, [(None, name)]) for name in ("lora", "ssf", "full")), combine=pb.COMBINE_VOTE),
        ),
    ],
)
def test_the_typed_form_means_what_the_text_means(client: Client, text: str, route: pb.Route) -> None:
    ours, theirs = (ask(client, form, probabilities=True) for form in (text, route))

    assert ours.route == theirs.route
    np.testing.assert_allclose(values(ours), values(theirs), atol=1e-6)


def test_a_typed_adapter_has_a_version_an_alias_or_a_task(client: Client) -> None:
    refs = [
        pb.AdapterRef(name="lora", version=1),
        pb.AdapterRef(name="lora", alias="prod"),
        pb.AdapterRef(name="lora", task="reordered"),
    ]
    routes = [pb.Route(entries=[pb.Entry(model=pb.Model(terms=[pb.Term(adapter=ref)]))]) for ref in refs]
    found = [ask(client, route).adapters[0].name for route in routes]

    assert found == ["shapes/lora:1", "shapes/lora:1", "reordered/lora:1"]


def test_alpha_leads_from_the_frozen_model_to_the_adapter(client: Client) -> None:
    at = {text: values(ask(client, text, probabilities=True)) for text in ("base", "0*ssf", "1*ssf", "ssf")}

    np.testing.assert_allclose(at["0*ssf"], at["base"], atol=1e-5)
    np.testing.assert_allclose(at["1*ssf"], at["ssf"], atol=1e-6)
    assert np.abs(at["ssf"] - at["base"]).max() > 0.01


def test_every_adapter_that_answered_is_named_with_its_digest(client: Client, world: World) -> None:
    response = ask(client, "lora, 0.5*lora + 0.5*ssf, base")

    assert [(adapter.name, adapter.method) for adapter in response.adapters] == [
        ("shapes/lora:2", "lora"),
        ("shapes/ssf:1", "ssf"),
        ("shapes/base", "linear"),
    ]
    assert response.adapters[0].digest == world.store.adapters.manifest("shapes", "lora", 2).digest


def test_classes_in_another_order_are_matched_by_name(client: Client) -> None:
    alone = ask(client, "reordered/lora", members=True, probabilities=True).results[0]
    beside = ask(client, "prob(lora, reordered/lora)", members=True, probabilities=True).results[0]

    assert alone.top[0].class_name == REORDERED[alone.top[0].class_index]
    assert beside.members[1].top.class_name == alone.top[0].class_name
    assert beside.members[1].top.class_index == SHAPES.index(alone.top[0].class_name)
    lora = ask(client, "lora", probabilities=True).results[0].probabilities
    by_name = dict(zip(REORDERED, alone.probabilities, strict=True))
    expected = [(p + by_name[name]) / 2 for name, p in zip(SHAPES, lora, strict=True)]
    assert list(beside.probabilities) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_images_come_in_three_formats(client: Client, kind: str) -> None:
    result = ask(client, "lora", encoded(3, kind), probabilities=True).results[0]

    expected = ask(client, "lora", encoded(3, "PNG"), probabilities=True).results[0]
    tolerance = 1e-6 if kind == "PNG" else 0.3
    np.testing.assert_allclose(result.probabilities, expected.probabilities, atol=tolerance)


def test_tensors_of_both_kinds_are_the_same_images(client: Client) -> None:
    raw = np.stack([pixels(3), pixels(4)])
    ready = np.stack([preprocess(encoded(i), PREPROCESS).numpy() for i in (3, 4)])
    options: dict[str, Any] = {"route": "lora, ssf", "task": "shapes", "probabilities": True}
    images = client.classify([encoded(3), encoded(4)], **options)

    for tensor in (raw, ready):
        response = client.classify(tensor=tensor, **options)
        np.testing.assert_allclose(values(response), values(images), atol=1e-6)
        assert [result.id for result in response.results] == ["", ""]


def test_answers_keep_the_order_and_the_ids_of_the_request(client: Client) -> None:
    images = [encoded(i) for i in range(10)]
    together = client.classify(
        images, route="lora", task="shapes", probabilities=True, ids=[f"image {i}" for i in range(10)]
    )

    assert [result.id for result in together.results] == [f"image {i}" for i in range(10)]
    alone = np.concatenate([values(ask(client, "lora", image, probabilities=True)) for image in images])
    np.testing.assert_allclose(values(together), alone, atol=1e-5)
    assert len({result.prediction_id for result in together.results}) == 10


@pytest.mark.parametrize(("top_k", "shown"), [(0, 3), (1, 1), (2, 2), (4_000_000_000, 3)])
def test_top_k_says_how_many_classes_are_shown(client: Client, top_k: int, shown: int) -> None:
    top = ask(client, "lora", top_k=top_k).results[0].top

    assert len(top) == shown
    assert [score.probability for score in top] == sorted((s.probability for s in top), reverse=True)
    assert [SHAPES[score.class_index] for score in top] == [score.class_name for score in top]


def test_what_was_not_asked_for_is_not_sent(client: Client) -> None:
    result = ask(client, "lora, ssf").results[0]

    assert not result.probabilities
    assert not result.members
    assert not result.HasField("error")


@pytest.mark.numerics
def test_requests_of_all_routes_at_once_answer_as_each_alone(running: Running, client: Client) -> None:
    texts = [*METHODS, "0.3*lora", "0.7*lora", "lora + ssf", "prob(full, vpt-deep)", "best", "base"] * 2
    alone = {text: values(ask(client, text, probabilities=True)) for text in set(texts)}
    taken = running.value("corolla_queue_duration_seconds_count")
    release = running.hold_engine()  # so that they gather

    with ThreadPoolExecutor(len(texts) + 1) as pool:
        pool.submit(ask, client, "lora")
        until(lambda: running.value("corolla_queue_duration_seconds_count") > taken)
        asked = [pool.submit(ask, client, text, probabilities=True) for text in texts]
        until(lambda: running.value("corolla_queue_rows") == 2 * (len(METHODS) + 9))
        release.set()
        for text, future in zip(texts, asked, strict=True):
            np.testing.assert_allclose(values(future.result()), alone[text], atol=1e-5)


def test_timings_say_where_the_time_went(client: Client) -> None:
    timings = ask(client, "lora").timings

    assert timings.decode.nanos > 0
    assert timings.forward.nanos > 0


# One bad image


def oversized() -> bytes:
    out = io.BytesIO()
    Image.new("1", (9000, 9000)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (b"", "empty"),
        (b"no image", "no image"),
        (b"GIF89a", "GIF"),
        (encoded(1)[:200], "cannot be decoded"),
        (oversized(), "9000 x 9000"),
    ],
)
def test_a_bad_image_has_its_own_status_in_an_ok_answer(client: Client, image: bytes, problem: str) -> None:
    fine, bad = ask(client, "lora", encoded(1), image, ids=["fine", "bad"]).results

    assert (fine.error.code, bad.error.code) == (code_pb2.OK, code_pb2.INVALID_ARGUMENT)
    assert bad.id == "bad"
    assert problem in bad.error.message
    assert field_of(bad.error) == "images[1]"
    assert not bad.top
    assert not bad.prediction_id
    assert fine.prediction_id


def field_of(status: status_pb2.Status) -> str:
    request = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(request)
    return str(request.field_violations[0].field)


def test_nan_in_one_image_of_a_tensor_has_its_own_status(client: Client) -> None:
    tensor = np.zeros((3, 3, SIZE, SIZE), np.float32)
    tensor[1, 0, 0, 0], tensor[2, 0, 0, 0] = np.nan, np.inf
    fine, *bad = client.classify(route="lora", task="shapes", tensor=tensor).results

    assert fine.error.code == code_pb2.OK
    assert [result.error.code for result in bad] == [code_pb2.INVALID_ARGUMENT] * 2
    assert [field_of(result.error) for result in bad] == ["tensor[1]", "tensor[2]"]


# Bad requests


@pytest.mark.parametrize(
    ("route", "field", "near"),
    [
        ("lorra", "adapter", "did you mean lora?"),
        ("lora:7", "version", "there is 1, 2"),
        ("lora@prd", "alias", "did you mean prod?"),
        ("lora, ssff", "adapter", "did you mean ssf?"),
        ("shape/lora", "task", "did you mean shapes?"),
    ],
)
def test_an_unknown_name_is_not_found_and_near_matches_are_named(
    client: Client, route: str, field: str, near: str
) -> None:
    assert near in str(refused(client, "NOT_FOUND", field, route=route))


def test_an_unknown_task_is_not_found(client: Client) -> None:
    assert "did you mean shapes?" in str(refused(client, "NOT_FOUND", "task", task="shaps"))


def test_members_of_different_label_spaces_are_refused_by_name(client: Client) -> None:
    error = refused(client, "INVALID_ARGUMENT", "route", route="lora, colours/lora")

    assert "shapes/lora:2 and colours/lora:1 have different classes" in str(error)


def test_terms_of_different_tasks_are_refused(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "route", route="0.5*lora + 0.5*reordered/lora")


@pytest.mark.parametrize("route", ["1.2*lora", "-0.5*lora", "lora, ssf + 3*bitfit"])
def test_alpha_out_of_range_is_refused_unless_it_is_allowed(client: Client, route: str) -> None:
    refused(client, "INVALID_ARGUMENT", "alpha", route=route)

    (result,) = ask(client, route, extrapolate=True, probabilities=True).results
    assert sum(result.probabilities) == pytest.approx(1, abs=1e-6)


def test_prompts_have_no_negative_alpha_even_when_it_is_allowed(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "alpha", route="-0.5*vpt-deep", extrapolate=True)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_alpha_that_is_no_number_is_refused(client: Client, alpha: float) -> None:
    route = typed((None, [(alpha, "lora")]))
    refused(client, "INVALID_ARGUMENT", "alpha", route=route, extrapolate=True)


@pytest.mark.parametrize("weight", [-1.0, 0.0, float("nan"), float("inf")])
def test_a_weight_that_is_not_positive_is_refused(client: Client, weight: float) -> None:
    refused(client, "INVALID_ARGUMENT", "weight", route=typed((weight, [(None, "lora")])))


def test_an_unknown_combine_is_refused(client: Client) -> None:
    route = typed((None, [(None, "lora")]), combine=17)
    refused(client, "INVALID_ARGUMENT", "typed_route.combine", route=route)


@pytest.mark.parametrize("text", ["", "lora,", "0.5*", "lora ssf", "x" * 5000, "LORA", "../../etc"])
def test_text_that_is_no_route_is_refused(client: Client, text: str) -> None:
    refused(client, "INVALID_ARGUMENT", "route", route=text)


@pytest.mark.parametrize("count", [0, 17])
def test_a_typed_route_has_some_entries_but_not_too_many(client: Client, count: int) -> None:
    refused(client, "INVALID_ARGUMENT", "route", route=typed(*[(None, [(None, "lora")])] * count))


def test_a_typed_adapter_with_a_bad_name_is_refused(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "adapter", route=typed((None, [(None, "../lora")])))


def test_the_longest_route_gets_an_error_that_arrives(client: Client) -> None:
    ref = pb.AdapterRef(task="t" * 60, name="n" * 60, alias="a" * 60)
    terms = [pb.Term(alpha=0.123456789, adapter=ref)] * 16
    route = pb.Route(entries=[pb.Entry(weight=-1, model=pb.Model(terms=terms))])
    refused(client, "INVALID_ARGUMENT", "weight", route=route)


def test_a_request_without_a_route_is_refused(client: Client) -> None:
    with pytest.raises(RequestFailed) as caught:
        client.send(pb.ClassifyRequest(task="shapes", images=[pb.Image(data=encoded(0))]))
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "route")


def test_a_request_without_a_task_is_refused_with_the_choices(client: Client) -> None:
    error = refused(client, "INVALID_ARGUMENT", "task", task="")
    assert "colours, reordered, shapes" in str(error)


def test_a_request_without_images_is_refused(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "images", images=[])


def test_too_many_images_are_refused(client: Client) -> None:
    error = refused(client, "INVALID_ARGUMENT", "images", images=[b""] * 65)
    assert "at most 64" in str(error)


def test_a_tensor_of_too_many_images_is_refused_before_it_is_taken_apart(client: Client) -> None:
    tensor = np.zeros((1_000_000, 1, 1, 3), np.uint8)
    refused(client, "INVALID_ARGUMENT", "images", images=[], tensor=tensor)


def test_images_and_a_tensor_together_are_refused(client: Client) -> None:
    refused(client, "INVALID_ARGUMENT", "tensor", tensor=np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("shape", [(8, 8, 3), (1, 3, 8, 8), (1, 8, 8, 4), (0, 8, 8, 3), (1, 0, 8, 3)])
def test_a_uint8_tensor_of_the_wrong_shape_is_refused(client: Client, shape: tuple[int, ...]) -> None:
    refused(client, "INVALID_ARGUMENT", "tensor.shape", images=[], tensor=np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(3, SIZE, SIZE), (1, SIZE, SIZE, 3), (2, 3, 64, 64), (1, 3, SIZE, 1)])
def test_a_float32_tensor_of_the_wrong_shape_is_refused(client: Client, shape: tuple[int, ...]) -> None:
    refused(client, "INVALID_ARGUMENT", "tensor.shape", images=[], tensor=np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", [pb.Tensor.DATA_TYPE_UNSPECIFIED, 9])
def test_a_tensor_of_an_unknown_dtype_is_refused(client: Client, dtype: Any) -> None:
    request = request_of(route="lora", task="shapes")
    request.tensor.CopyFrom(pb.Tensor(dtype=dtype, shape=[1, 1, 1, 3], data=b"abc"))
    with pytest.raises(RequestFailed) as caught:
        client.send(request)
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "tensor.dtype")


@pytest.mark.parametrize("shape", [[1, 2, 2, 3], [2**32 - 1, 2**32 - 1, 2**32 - 1, 3]])
def test_a_tensor_whose_bytes_are_not_its_shape_is_refused(client: Client, shape: list[int]) -> None:
    request = request_of(route="lora", task="shapes")
    request.tensor.CopyFrom(pb.Tensor(dtype=pb.Tensor.DATA_TYPE_UINT8, shape=shape, data=b"12345"))
    with pytest.raises(RequestFailed) as caught:
        client.send(request)
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "tensor.data")


def test_priority_and_client_reach_the_queue(
    running: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Priority, str]] = []
    submit = running.server.service.batcher.submit

    async def watched(works: Any, **options: Any) -> Any:
        seen.append((options["priority"], options["client"]))
        return await submit(works, **options)

    monkeypatch.setattr(running.server.service.batcher, "submit", watched)
    lora: dict[str, Any] = {"route": "lora", "task": "shapes"}
    client.classify([encoded(0)], **lora, priority="low", client="nightly")
    client.classify([encoded(0)], **lora, priority="high", client="ipv4:127.0.0.1:1")
    client.classify([encoded(0)], **lora)

    assert seen[:2] == [(Priority.LOW, "client:nightly"), (Priority.HIGH, "client:ipv4:127.0.0.1:1")]
    assert seen[2][0] is Priority.NORMAL
    assert seen[2][1].startswith("peer:"), (
        "who has no name is the connection, and no name can pretend to be one"
    )


def test_an_unknown_priority_is_refused(client: Client) -> None:
    request = request_of([encoded(0)], route="lora", task="shapes")
    request.priority = 17
    with pytest.raises(RequestFailed) as caught:
        client.send(request)
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "priority")


def test_a_client_with_too_long_a_name_is_refused(client: Client) -> None:
    for length in (MAX_CLIENT, MAX_CLIENT + 1, 10_000):
        request = request_of([encoded(0)], route="lora", task="shapes", client="x" * length)
        if length == MAX_CLIENT:
            client.send(request)
            continue
        with pytest.raises(RequestFailed) as caught:
            client.send(request)
        assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "client")


def test_a_misspelt_route_suggests_routes_too(client: Client) -> None:
    assert "did you mean best?" in str(refused(client, "NOT_FOUND", "adapter", route="bset"))


def test_garbage_on_the_wire_fails_and_the_server_goes_on(running: Running, client: Client) -> None:
    call: Any = client.channel.unary_unary("/corolla.v1.Classifier/Classify")
    for garbage in (b"\xff\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x00" * 1000):
        with pytest.raises(grpc.RpcError) as caught:
            call(garbage, timeout=WAIT_S)
        assert caught.value.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

    assert len(ask(client, "lora").results) == 1


def test_an_unknown_method_is_unimplemented(client: Client) -> None:
    call: Any = client.channel.unary_unary("/corolla.v1.Classifier/Guess")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=WAIT_S)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_a_message_over_the_limit_is_refused_and_the_server_goes_on(world: World) -> None:
    with Running(world.settings(max_message_bytes=100_000)) as running, running.client() as client:
        with pytest.raises(RequestFailed) as caught:
            ask(client, "lora", b"x" * 200_000)
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert len(ask(client, "lora").results) == 1


# What the server meets


def test_a_corrupted_adapter_is_refused_with_the_reason_and_the_server_goes_on(own_world: World) -> None:
    file = own_world.adapter_file("shapes", "ssf", 1)
    data = file.read_bytes()
    file.write_bytes(data[:-4] + b"\0\1\2\3")
    with Running(own_world.settings()) as running, running.client() as client:
        error = refused(client, "DATA_LOSS", "adapters/shapes/ssf/1/adapter.safetensors", route="lora, ssf")
        assert "shapes/ssf:1 cannot be loaded: digest" in str(error)
        assert ask(client, "lora").route == "lora:2"

        file.write_bytes(data)
        assert ask(client, "ssf").route == "ssf:1"


def test_an_adapter_of_another_backbone_is_refused(own_world: World) -> None:
    other = own_world.store.backbones.put("other", CONFIG, backbone_tensors(1), "random")
    own_world.put_task("shapes", SHAPES, other)
    task = own_world.store.tasks.get("shapes", other.digest)
    ours = own_world.store.adapters.manifest("shapes", "lora", 2)
    draft = Draft.of(
        task="shapes",
        name="foreign",
        method="lora",
        config=ours.config,
        backbone_digest=other.digest,
        task_digest=task.digest,
    )
    own_world.store.adapters.publish(draft, own_world.store.adapters.load(ours))
    with Running(own_world.settings(backbone="tiny")) as running, running.client() as client:
        error = refused(client, "INVALID_ARGUMENT", "route", route="foreign")
        assert other.digest[:12] in str(error)


def test_a_full_queue_is_resource_exhausted_with_a_time_to_wait(world: World) -> None:
    with Running(world.settings(max_queue_rows=4)) as running, running.client() as client:
        ask(client, "lora")
        release = running.hold_engine()
        with ThreadPoolExecutor(2) as pool:
            taken = pool.submit(ask, client, "lora")
            until(lambda: running.value("corolla_queue_duration_seconds_count") == 2)
            waiting = pool.submit(ask, client, "lora, ssf, bitfit")
            until(lambda: running.value("corolla_queue_rows") == 3)
            error = refused(client, "RESOURCE_EXHAUSTED", "queue", route="lora, ssf")
            release.set()
            assert taken.result(WAIT_S).route == "lora:2"
            assert waiting.result(WAIT_S).route == "lora:2, ssf:1, bitfit:1"

    assert isinstance(error.__cause__, grpc.Call)
    status = rpc_status.from_call(error.__cause__)
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert retry.retry_delay.ToMilliseconds() > 0


def test_a_deadline_that_passes_is_exceeded_and_its_rows_never_run(world: World) -> None:
    with Running(world.settings()) as running, running.client() as patient:
        ask(patient, "lora")
        release = running.hold_engine()
        with ThreadPoolExecutor(2) as pool, running.client(timeout_s=DEADLINE_S) as hasty:
            taken = pool.submit(ask, patient, "lora")
            until(lambda: running.value("corolla_queue_duration_seconds_count") == 2)
            expires = pool.submit(refused, hasty, "DEADLINE_EXCEEDED", None)
            until(lambda: running.value("corolla_queue_rows") == 1)
            expires.result(WAIT_S)
            until(lambda: running.value("corolla_queue_rows") == 0)
            release.set()
            taken.result(WAIT_S)
        assert ask(patient, "lora").route == "lora:2"
        assert running.value("corolla_batch_rows_sum") == 3
        labels = {"method": "Classify", "code": "DEADLINE_EXCEEDED"}
        assert running.value("corolla_requests_total", **labels) == 1


def test_an_unexpected_error_is_internal_with_an_incident_and_no_details(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Running(world.settings()) as running, running.client() as client:

        def broken(*_: object, **__: object) -> None:
            raise RuntimeError("the secret path")

        with monkeypatch.context() as patch:
            patch.setattr(running.server.service.catalog, "plan", broken)
            error = refused(client, "INTERNAL", None)
        assert ask(client, "lora").route == "lora:2"

    assert "secret" not in str(error)
    incident = str(error).rpartition("incident ")[2]
    assert len(incident) == 12
    (record,) = [record for record in caplog.records if incident in record.getMessage()]
    assert record.exc_info is not None


def test_a_caller_that_goes_harms_nobody(world: World) -> None:
    with Running(world.settings()) as running, running.client() as client:
        ask(client, "lora")
        release = running.hold_engine()
        request = request_of([encoded(0)], route="lora", task="shapes")
        call: Any = client._stub.Classify
        first = call.future(request, timeout=WAIT_S)
        until(lambda: running.value("corolla_queue_duration_seconds_count") == 2)
        gone, stays = (call.future(request, timeout=WAIT_S) for _ in range(2))
        until(lambda: running.value("corolla_queue_rows") == 2)
        gone.cancel()
        until(lambda: running.value("corolla_queue_rows") == 1)
        release.set()

        assert len(stays.result().results) == len(first.result().results) == 1
        cancelled = {"method": "Classify", "code": "CANCELLED"}
        until(lambda: running.value("corolla_requests_total", **cancelled) == 1)


# Feedback


def test_labels_become_counters(client: Client, running: Running) -> None:
    results = ask(client, "best", *(encoded(i) for i in range(4)), domain="studio").results
    here = {"route": "shapes/best", "domain": "studio"}
    before = {o: running.value("corolla_feedback_total", **here, outcome=o) for o in ("correct", "incorrect")}
    truths: list[str | int] = [results[0].top[0].class_name, results[1].top[0].class_index]
    truths += [(results[2].top[0].class_index + 1) % 3, "triangle"]

    ids = [result.prediction_id for result in results]
    answered = client.feedback(zip(ids, truths, strict=True)).results
    again = client.feedback([(ids[0], "star"), ("forged", "star")]).results

    assert [(result.status, result.correct) for result in answered] == [
        (pb.FEEDBACK_STATUS_COUNTED, True),
        (pb.FEEDBACK_STATUS_COUNTED, True),
        (pb.FEEDBACK_STATUS_COUNTED, False),
        (pb.FEEDBACK_STATUS_INVALID_CLASS, False),
    ]
    assert [result.status for result in again] == [
        pb.FEEDBACK_STATUS_DUPLICATE,
        pb.FEEDBACK_STATUS_INVALID_TOKEN,
    ]
    assert "circle, square, star" in answered[3].message
    assert running.value("corolla_feedback_total", **here, outcome="correct") == before["correct"] + 2
    assert running.value("corolla_feedback_total", **here, outcome="incorrect") == before["incorrect"] + 1


def test_a_label_without_a_class_is_invalid(client: Client) -> None:
    prediction_id = ask(client, "lora").results[0].prediction_id
    reply = client._stub.Feedback(
        pb.FeedbackRequest(labels=[pb.Label(prediction_id=prediction_id)]), timeout=WAIT_S
    )

    assert reply.results[0].status == pb.FEEDBACK_STATUS_INVALID_CLASS
    assert "the label names no class" in reply.results[0].message


def test_too_many_labels_are_refused(client: Client) -> None:
    with pytest.raises(RequestFailed) as caught:
        client.feedback([("x", "star")] * (MAX_LABELS + 1))
    assert (caught.value.code, caught.value.named_field) == ("INVALID_ARGUMENT", "labels")


def test_labels_may_come_back_to_another_server_with_the_same_key(world: World, client: Client) -> None:
    prediction_id = ask(client, "lora").results[0].prediction_id
    with Running(world.settings()) as replica, replica.client() as other:
        assert other.feedback([(prediction_id, "star")]).results[0].status == pb.FEEDBACK_STATUS_COUNTED


def test_many_threads_share_one_client(client: Client) -> None:
    barrier = threading.Barrier(8)

    def ask_together(i: int) -> str:
        barrier.wait(WAIT_S)
        return str(ask(client, METHODS[i % len(METHODS)]).route)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(ask_together, range(8)))) == 8
