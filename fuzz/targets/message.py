"""The protobuf surface through a real channel: a method, by the first byte, and the bytes of its message.

Whatever is sent, the call ends with a status that says whose fault it is, and the server goes on.
"""

import atexit
import tempfile
from contextlib import ExitStack
from pathlib import Path

import grpc

from protos.corolla.v1 import admin_pb2, classifier_pb2
from protos.inference import grpc_service_pb2
from tests.serving.world import Running, World, encoded

_OURS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
"""How no call may end, whatever it says: all of it is the client's fault."""
_WAIT_S = 60.0
METHODS = tuple(
    (f"/{service.full_name}/{method.name}", method.client_streaming)
    for file in (classifier_pb2, grpc_service_pb2, admin_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
)


class _Channel:
    """A channel to a server in this process, made when the first message is sent."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._channel: grpc.Channel | None = None

    def __call__(self) -> grpc.Channel:
        if self._channel is None:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="corolla-fuzz-"))
            world = World.make(Path(folder) / "store")
            running = self._stack.enter_context(Running(world.settings(admin=True, label_share=1.0)))
            self._channel = self._stack.enter_context(grpc.insecure_channel(running.address))
            atexit.register(self.close)
        return self._channel

    def close(self) -> None:
        """Ends the server."""
        self._stack.close()


_channel = _Channel()


def seeds() -> list[bytes]:
    pb, oip = classifier_pb2, grpc_service_pb2
    image = pb.Image(id="a", data=encoded())
    classify = pb.ClassifyRequest(
        task="shapes", route="lora, 0.5*ssf", images=[image], top_k=2, domain="street"
    )
    typed = pb.ClassifyRequest(task="shapes", images=[image])
    typed.typed_route.entries.add().model.terms.add().adapter.name = "lora"
    pixels = pb.ClassifyRequest(task="shapes", route="best")
    pixels.tensor.CopyFrom(pb.Tensor(dtype=pb.Tensor.DATA_TYPE_UINT8, shape=[1, 2, 2, 3], data=bytes(12)))
    infer = oip.ModelInferRequest(model_name="shapes/lora", raw_input_contents=[encoded()])
    infer.inputs.add(name="images", datatype="BYTES", shape=[1])
    infer.parameters["top_k"].int64_param = 2
    feedback = pb.FeedbackRequest()
    messages = {
        "Classify": (classify, typed, pixels),
        "ClassifyStream": (pb.StreamRequest(id="x", request=typed),),
        "Embed": (pb.EmbedRequest(task="shapes", images=[image]),),
        "Feedback": (feedback,),
        "ModelInfer": (infer,),
    }
    found = [(name, message) for name, several in messages.items() for message in several]
    paths = [path.rpartition("/")[2] for path, _ in METHODS]
    return [bytes([paths.index(name)]) + message.SerializeToString() for name, message in found] + [
        bytes([number]) for number in range(len(METHODS))
    ]


def check(data: bytes) -> None:
    if not data:
        return
    path, streams = METHODS[data[0] % len(METHODS)]
    error = _sent(path, data[1:], streams=streams)
    if error is not None and error.code() in _OURS:
        _channel.close()  # else the process would wait for the server's thread
        raise AssertionError(f"{path}: {error}")


def close() -> None:
    """Ends the server, whose thread would keep the process."""
    _channel.close()


def _sent(path: str, message: bytes, *, streams: bool) -> grpc.RpcError | None:
    """How a call ends; None where it is answered."""
    channel = _channel()
    try:
        if streams:
            list(channel.stream_stream(path)(iter([message]), timeout=_WAIT_S))
        else:
            channel.unary_unary(path)(message, timeout=_WAIT_S)
    except grpc.RpcError as error:
        return error
    return None
