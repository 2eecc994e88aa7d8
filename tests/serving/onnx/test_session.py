"""How ONNX Runtime runs a graph."""

import os
from contextlib import suppress

import onnx
import psutil
import pytest
import torch
from onnx import TensorProto, helper

from serving.onnx import session

pytestmark = pytest.mark.onnx


@pytest.fixture
def graph() -> bytes:
    """One operation."""
    shown = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    made = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", [shown], [answer])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.ModelProto.SerializeToString(model)


def threads() -> dict[int, set[int]]:
    """The CPUs that each thread of this process may run on."""
    allowed = {}
    for thread in psutil.Process().threads():
        with suppress(ProcessLookupError):  # it has ended
            allowed[thread.id] = os.sched_getaffinity(thread.id)
    return allowed


def test_a_session_has_as_many_threads_as_pytorch_and_leaves_them_their_affinity(graph: bytes) -> None:
    before, cpus = threads(), os.sched_getaffinity(0)
    chosen = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        opened = session.opened(graph, torch.device("cpu"))
        new = [allowed for thread, allowed in threads().items() if thread not in before]
    finally:
        torch.set_num_threads(chosen)

    assert opened.get_session_options().intra_op_num_threads == 3
    assert len(new) >= 2  # the third is the caller
    assert all(allowed == cpus for allowed in new)
    assert session.opened(graph, torch.device("cpu"), 1).get_session_options().intra_op_num_threads == 1
