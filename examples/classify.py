"""Classifies images by a route of a running server, and says which members agree.

corolla serve --store .demo/store &
python examples/classify.py photo.jpg --task digits --route "lora, bitfit"
"""

import argparse
import glob
from pathlib import Path

import corolla


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", default=sorted(glob.glob(".demo/images/*.png")))
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--route", default="lora, bitfit")
    given = parser.parse_args()

    with corolla.Client(given.server, timeout_s=60) as client:
        images = [Path(image).read_bytes() for image in given.images]
        answer = client.classify(images, route=given.route, task=given.task, ids=given.images, members=True)
    print("answered by", answer.route)
    for result in answer.results:
        if result.error.code:  # one bad image is one bad image
            print(result.id, "-", result.error.message)
            continue
        best = result.top[0]
        said = ", ".join(f"{member.member}: {member.top.class_name}" for member in result.members)
        print(
            f"{result.id} {best.class_name} {best.probability:.3f} agreement {result.agreement:.2f}, {said}"
        )


if __name__ == "__main__":
    main()
