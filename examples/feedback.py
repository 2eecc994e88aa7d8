"""Sends the server what its predictions should have been, so that its metrics know the accuracy.

corolla serve --store .demo/store &
python examples/feedback.py photo.jpg=3 other.jpg=7 --task digits --route lora
"""

import argparse
import glob
from pathlib import Path

import corolla


def main() -> None:
    shown = [f"{path}={path[-5]}" for path in glob.glob(".demo/images/*-is-*.png")]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE=CLASS", default=shown)
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--route", default="lora")
    given = parser.parse_args()

    paths, truths = zip(*(image.rsplit("=", 1) for image in given.images), strict=True)
    with corolla.Client(given.server, timeout_s=60) as client:
        images = [Path(path).read_bytes() for path in paths]
        answer = client.classify(images, route=given.route, task=given.task, domain="example")
        # Usually much later: the prediction id is all that has to be kept.
        ids = [result.prediction_id for result in answer.results]
        labels = client.feedback(zip(ids, truths, strict=True))
    for path, truth, label in zip(paths, truths, labels.results, strict=True):
        print(path, truth, label.message or ("correct" if label.correct else "incorrect"))


if __name__ == "__main__":
    main()
