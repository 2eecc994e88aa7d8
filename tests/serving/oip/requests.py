"""Requests by NVIDIA's client and on the wire, and what a refusal says."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numpy.typing import NDArray

from tests.serving.triton_client import service_pb2
from tests.serving.triton_client import tritonclient as triton
from tests.serving.world import (
    encoded,
)


def tensor(values: NDArray[Any], datatype: str) -> Any:
    made = triton.InferInput("images", list(values.shape), datatype)
    made.set_data_from_numpy(values)
    return made


def images(*seeds: int) -> Any:
    return tensor(np.array([encoded(seed) for seed in seeds or (0,)], object), "BYTES")


def infer(client: Any, model: str, *inputs: Any, **options: Any) -> Any:
    return client.infer(model, list(inputs or (images(),)), **options)


def request(model: str = "shapes/lora", **changes: Any) -> Any:
    """A request as it is on the wire; typed contents of one image."""
    chosen: dict[str, Any] = {
        "model_name": model,
        "inputs": [
            {
                "name": "images",
                "datatype": "BYTES",
                "shape": [1],
                "contents": {"bytes_contents": [encoded(0)]},
            }
        ],
    }
    return service_pb2.ModelInferRequest(**(chosen | changes))


def raw(data: bytes, shape: list[int], datatype: str = "BYTES", **changes: Any) -> Any:
    described = {"name": "images", "datatype": datatype, "shape": shape}
    return request(inputs=[described], raw_input_contents=[data], **changes)


def parameters(**values: Any) -> dict[str, Any]:
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    return {name: service_pb2.InferParameter(**{kinds[type(v)]: v}) for name, v in values.items()}


def numbers(response: Any, name: str) -> NDArray[Any]:
    position = [output.name for output in response.outputs].index(name)
    dtype = "<i8" if response.outputs[position].datatype == "INT64" else "<f4"
    return np.frombuffer(response.raw_output_contents[position], dtype).reshape(
        list(response.outputs[position].shape)
    )


def refusal(call: Callable[[], Any]) -> tuple[str, str | None, str]:
    """Code, field and text of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return described(caught.value)


def described(error: Any) -> tuple[str, str | None, str]:
    status, field = rpc_status.from_call(error), None
    for detail in status.details if status is not None else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            field = bad.field_violations[0].field
    assert "Traceback" not in error.details()
    return error.code().name, field, error.details()
