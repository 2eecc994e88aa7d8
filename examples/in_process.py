"""Classifies and embeds images in this process, without a server: for notebooks and batch jobs.

python examples/in_process.py photo.jpg --store .demo/store --task digits --route "0.6*lora, bitfit"
"""

import argparse
import glob

import numpy as np
from PIL import Image

import corolla


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", default=sorted(glob.glob(".demo/images/*.png")))
    parser.add_argument("--store", default=".demo/store")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--route", default="0.6*lora, bitfit")
    given = parser.parse_args()

    with corolla.Store(given.store) as store:
        for manifest in store.adapters(given.task):
            print(manifest, manifest.method, manifest.metrics.get("accuracy"))
        # Paths, bytes, Pillow images and arrays may stand in one list.
        images = [*given.images, Image.new("RGB", (64, 64), "navy"), np.zeros((32, 32), np.uint8)]
        answers = store.classify(images, route=given.route, task=given.task)
        for image, answer in zip(given.images, answers, strict=False):
            print(image, answer.error or f"{answer.label} {answer.probability:.3f}")
        features = [one.vector for one in store.embed(images, task=given.task) if not one.error]
        print("features", np.stack(features).shape)


if __name__ == "__main__":
    main()
