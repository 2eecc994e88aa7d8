"""Speaks the Open Inference Protocol by plain gRPC stubs; a model's name is a route.

corolla serve --store .demo/store &
python examples/oip.py photo.jpg --model digits/lora
"""

import argparse
import glob
import struct
from pathlib import Path

import grpc

from protos.inference import grpc_service_pb2 as oip
from protos.inference.grpc_service_pb2_grpc import GRPCInferenceServiceStub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", default=sorted(glob.glob(".demo/images/*.png")))
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--model", default="digits/lora")
    given = parser.parse_args()

    images = [Path(image).read_bytes() for image in given.images]
    tensor = oip.ModelInferRequest.InferInputTensor(name="images", datatype="BYTES", shape=[len(images)])
    tensor.contents.bytes_contents.extend(images)
    request = oip.ModelInferRequest(model_name=given.model, inputs=[tensor])
    with grpc.insecure_channel(given.server) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
    place = [output.name for output in answer.outputs].index("class_index")
    classes = struct.unpack(f"<{len(images)}q", answer.raw_output_contents[place])
    for path, number in zip(given.images, classes, strict=True):
        print(path, "class", number)


if __name__ == "__main__":
    main()
