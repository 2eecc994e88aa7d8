"""ModelInfer over a real channel: what a bad request is told."""

from typing import Any

import grpc
import numpy as np
import pytest

from serving.oip.servicer import SERVICE
from tests.serving.oip.requests import parameters, raw, refusal, request
from tests.serving.triton_client import tritonclient as triton
from tests.serving.world import (
    SIZE,
    Running,
    encoded,
)

InferenceServerException = triton.InferenceServerException


def one_input(**changes: Any) -> Any:
    chosen: dict[str, Any] = {"name": "images", "datatype": "BYTES", "shape": [1]}
    return request(inputs=[chosen | changes])


FLOATS = {"contents": {"fp32_contents": [0.0] * 12}}
GOOD = {"contents": {"bytes_contents": [encoded(0)]}}
TWO = {"contents": {"bytes_contents": [encoded(0), b"not an image"]}}
OTHER = "inputs[0].contents"
INVALID: list[tuple[str, Any, str, str]] = [
    ("no tensor", request(inputs=[]), "inputs", "0 tensors"),
    ("two tensors", request(inputs=[*request().inputs] * 2), "inputs", "2 tensors"),
    ("name", one_input(name="image", **GOOD), "inputs[0].name", "`images`"),
    ("datatype", one_input(datatype="FP16", **GOOD), "inputs[0].datatype", "FP32"),
    ("no datatype", one_input(datatype="", **GOOD), "inputs[0].datatype", "FP32"),
    ("no shape", one_input(shape=[], **GOOD), "inputs[0].shape", "[n, 1]"),
    ("empty", one_input(shape=[0]), "inputs[0].shape", "[0]"),
    ("negative", one_input(shape=[-1], **GOOD), "inputs[0].shape", "[-1]"),
    ("wide", one_input(shape=[1, 2], **GOOD), "inputs[0].shape", "[1, 2]"),
    ("layout", raw(b"x" * 12, [1, 3, 2, 2], "UINT8"), "inputs[0].shape", "[n, H, W, 3]"),
    ("deep", one_input(shape=[1] * 99, **GOOD), "inputs[0].shape", "..."),
    ("many", one_input(shape=[2**40], **GOOD), "inputs[0].shape", "at most 64"),
    ("size", one_input(datatype="FP32", shape=[1, 3, 2, 2], **FLOATS), "inputs[0].shape", "32"),
    ("no values", one_input(), f"{OTHER}.bytes_contents", "0 values"),
    ("few values", one_input(shape=[2], **GOOD), f"{OTHER}.bytes_contents", "1 values"),
    ("wrong list", one_input(**FLOATS), OTHER, "bytes_contents"),
    ("over", one_input(datatype="UINT8", shape=[1, 2, 2, 3], contents={"uint_contents": [256] * 12}),
     f"{OTHER}.uint_contents", "256"),
    ("both", request(raw_input_contents=[b"x"]), "raw_input_contents", "raw and typed"),
    ("two raw", request(raw_input_contents=[b"x"] * 2), "raw_input_contents",
     "2 raw contents for one input; send one"),
    ("short", raw(b"x" * 11, [1, 2, 2, 3], "UINT8"), "raw_input_contents[0]", "12"),
    ("huge", raw(b"x", [1, 2**62, 2**62, 3], "UINT8"), "raw_input_contents[0]", "1 bytes"),
    ("lengths", raw(encoded(0), [2]), "raw_input_contents[0]", "after its length"),
    ("bad image", one_input(shape=[2], **TWO), "images[1]", "JPEG"),
    ("raw image", raw(b"junk", [1]), "images[0]", "JPEG"),
    ("not finite", raw(np.full((1, 3, SIZE, SIZE), np.nan, "f4").tobytes(), [1, 3, SIZE, SIZE], "FP32"),
     "images[0]", "NaN"),
    ("no model", request(""), "model_name", "lora"),
    ("no route", request("lora,, ssf"), "model_name", "character 6"),
    ("no task", request("lora"), "parameters[task]", "shapes"),
    ("odd version", request(model_version="v 1"), "model_version", "v 1"),
    ("long version", request(model_version="9" * 40), "model_version", "999"),
    ("two versions", request("shapes/lora:1", model_version="2"), "model_version", "lora:3"),
    ("of a mix", request("shapes/lora, shapes/ssf", model_version="1"), "model_version", "one"),
    ("output", request(outputs=[{"name": "logits"}]), "outputs[0].name", "probabilities"),
    ("twice", request(outputs=[{"name": "label"}] * 2), "outputs[1].name", "twice"),
    ("best of labels", request(outputs=[{"name": "label", "parameters": parameters(classification=2)}]),
     "outputs[0].parameters[classification]", "probabilities"),
    ("odd best", request(outputs=[{"name": "probabilities", "parameters": parameters(classification=-2)}]),
     "outputs[0].parameters[classification]", "-2"),
    ("shared in", one_input(parameters=parameters(shared_memory_region="a")),
     "inputs[0].parameters[shared_memory_region]", "raw_input_contents"),
    ("shared out", request(outputs=[{"name": "label", "parameters": parameters(shared_memory_region="a")}]),
     "outputs[0].parameters[shared_memory_region]", "raw_output_contents"),
    *(
        (f"{name} {value}", request(parameters=parameters(**{name: value})), f"parameters[{name}]", text)
        for name, value, text in (
            ("alpha", "much", "a finite number; send a finite number, or leave it out"),
            ("alpha", True, "a finite number"),
            ("alpha", float("nan"), "'nan' is not a finite number"),
            ("alpha", 1.5, "[0, 1]"),
            ("alpha", 1e9, "alpha"),
            ("route", 5, "a text"),
            ("route", "", "lora"),
            ("adapter", "lora, ssf", "one adapter"),
            ("extrapolate", "yes", "true or false"),
            ("priority", 4, "high"),
            ("priority", "most", "high"),
            ("deadline", -1, "0 or more"),
            ("timeout", -1, "0 or more"),
            ("top_k", 0, "1 or more"),
            ("top_k", 1.5, "whole"),
            ("client", "x" * 129, "128"),
        )
    ),
    ("both names", request(parameters=parameters(route="lora", adapter="ssf")),
     "parameters[adapter]", "keep one"),
    ("blocks", request("0.5[0-7]*shapes/lora"), "model_name", "2 blocks"),
    ("alpha of a mix", request("shapes/lora, shapes/ssf", parameters=parameters(alpha=0.5)),
     "parameters[alpha]", "one adapter"),
]  # fmt: skip
UNKNOWN: list[tuple[str, Any, str, str]] = [
    ("model", request("shapes/loar"), "model_name", "lora"),
    ("task", request("shape/lora"), "model_name", "shapes"),
    ("version", request(model_version="9"), "model_version", "2"),
    ("alias", request(model_version="best"), "model_version", "latest"),
    ("unknown in parameter", request(parameters=parameters(route="loar", task="shapes")),
     "parameters[route]", "lora"),
    ("unknown task", request("lora", parameters=parameters(task="shape")), "parameters[task]", "shapes"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("code", "asked", "field", "text"),
    [
        pytest.param(code, *row, id=name)
        for code, rows in (("INVALID_ARGUMENT", INVALID), ("NOT_FOUND", UNKNOWN))
        for name, *row in rows
    ],
)
def test_a_bad_request_is_told_its_field_and_the_server_lives(
    stub: Any, asked: Any, code: str, field: str, text: str
) -> None:
    found = refusal(lambda: stub.ModelInfer(asked))

    assert found[:2] == (code, field), found
    assert text in found[2]
    assert stub.ModelInfer(request()).outputs


def test_bytes_that_are_no_request_are_refused_and_the_server_lives(running: Running, stub: Any) -> None:
    with grpc.insecure_channel(running.address) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff\xff")
    code = caught.value.code()  # type: ignore[attr-defined]
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert stub.ModelInfer(request()).outputs


def test_asking_about_an_unknown_model_is_not_found(client: Any) -> None:
    for ask in (client.get_model_metadata, client.get_model_config):
        with pytest.raises(InferenceServerException, match="model_name: no adapter"):
            ask("shapes/nothing")
        with pytest.raises(InferenceServerException, match="model_version"):
            ask("shapes/lora", "9")
