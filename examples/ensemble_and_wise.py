"""Sweeps the WiSE factor of one adapter, and compares it with an ensemble; neither costs another copy.

    corolla serve --store .demo/store &
    python examples/ensemble_and_wise.py photo.jpg --task digits --adapters lora bitfit

alpha 0 is the frozen backbone with the task's linear probe, 1 the adapter as trained.
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
    parser.add_argument("--adapters", nargs="+", default=["lora", "bitfit"])
    given = parser.parse_args()

    first = given.adapters[0]
    routes = [f"{alpha:g}*{first}" for alpha in (0, 0.25, 0.5, 0.75, 1)]
    routes += [", ".join(given.adapters), f"vote({', '.join(given.adapters)})"]
    images = [Path(image).read_bytes() for image in given.images]
    with corolla.Client(given.server, timeout_s=60) as client:
        for route in routes:
            answer = client.classify(images, route=route, task=given.task, top_k=1)
            good = [result for result in answer.results if not result.error.code]
            labels = " ".join(result.top[0].class_name for result in good)
            confidence = sum(result.top[0].probability for result in good) / max(1, len(good))
            print(f"{answer.route:40} mean confidence {confidence:.3f}: {labels}")


if __name__ == "__main__":
    main()
