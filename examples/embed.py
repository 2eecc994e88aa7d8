"""Finds the most similar pair of images by their features: frozen ones, or those under an adapter.

corolla serve --store .demo/store &
python examples/embed.py a.jpg b.jpg c.jpg --task digits --route lora
"""

import argparse
import glob
from itertools import combinations
from pathlib import Path

import numpy as np

import corolla


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", default=sorted(glob.glob(".demo/images/*.png")))
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--route", default="", help="one model; empty is the frozen backbone")
    given = parser.parse_args()

    images = [Path(image).read_bytes() for image in given.images]
    with corolla.Client(given.server, timeout_s=60) as client:
        answer = client.embed(images, route=given.route, task=given.task, normalise=True)
    vectors = np.array([result.values for result in answer.results])  # [n, D], of length 1
    alike = vectors @ vectors.T
    first, second = max(combinations(range(len(images)), 2), key=lambda pair: alike[pair])
    print(f"features of {answer.route}: {vectors.shape[1]} numbers for each image")
    print(f"{given.images[first]} and {given.images[second]} are {alike[first, second]:.3f} alike")


if __name__ == "__main__":
    main()
