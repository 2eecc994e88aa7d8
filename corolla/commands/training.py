"""`corolla train`, `corolla evaluate` and `corolla methods`.

`train` has one command for each registered method, with the method's own settings as options. Further
adapters of the same run are given as texts, which are parsed by the commands of their methods. What computes
is imported once the arguments are read.
"""

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from platformdirs import user_cache_dir
from rich.console import Console
from rich.table import Table

from model_store.resolution.versions import resolve
from model_store.routes.algebra import Route
from model_store.routes.text import parse_route
from model_store.store import Store
from petl_vit import summaries
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import InvalidInput, NotFound, Unsupported
from petl_vit.precision import CHOICES, MEANING, Precision
from petl_vit.summaries import Setting, Summary
from training.data import shift
from training.progress import Bars
from training.run.recipe import Recipe, flag

if TYPE_CHECKING:
    from model_store.resolution.loading import Loader
    from training.data.records import Dataset
    from training.measure.evaluation import Candidate, Measured, Shift
    from training.run.job import Outcome

_store = click.option(
    "--store", "url", envvar="COROLLA_STORE", help="Folder or URL of the model store. [env: COROLLA_STORE]"
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")

_device = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the backbone runs.",
)
_SEED = click.IntRange(0, 2**31 - 1)
_OWN = ("name", "learning_rate", "weight_decay", "warmup_ratio", "drop_path", "head_init", "seed")
_OWN_FLAGS = tuple(f"--{flag(name)}" for name in _OWN)

_COMMON: list[Callable[..., Any]] = [
    click.option(
        "--data",
        "source",
        required=True,
        help="Folder, .zip or .npz of labelled images, `digits` or `mnist`.",
    ),
    click.option("--task", required=True, help="Task to register under; made if it does not exist."),
    click.option("--name", help="Name to register under.  [default: the method's]"),
    click.option("--backbone", help="Name or digest.  [default: the only one in the store]"),
    click.option("--heldout", help="Held-out images of their own, instead of a split."),
    click.option(
        "--holdout",
        type=click.FloatRange(0.01, 0.9),
        default=0.2,
        show_default=True,
        help="Share of the images that is held out.",
    ),
    click.option(
        "--split-seed", type=_SEED, default=0, show_default=True, help="Decides the split and --limit."
    ),
    click.option("--limit", type=click.IntRange(2), help="Train on at most so many images."),
    click.option(
        "--image-size",
        type=click.IntRange(14, 1024),
        help="Input size of a new task, px.  [default: the backbone's]",
    ),
    click.option(
        "--resize",
        type=click.Choice(["squash", "crop"]),
        help="How images of a new task reach it.  [default: squash]",
    ),
    click.option("--epochs", type=click.IntRange(1, 10_000), default=30, show_default=True),
    click.option("--batch-size", type=click.IntRange(1, 65_536), default=64, show_default=True),
    click.option(
        "--weight-decay", type=click.FloatRange(0, 1), default=1e-4, show_default=True, help="AdamW's."
    ),
    click.option(
        "--warmup-ratio",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.1,
        show_default=True,
        help="Share of the steps in which the learning rate rises.",
    ),
    click.option(
        "--drop-path",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.1,
        show_default=True,
        help="Stochastic depth of the last block.",
    ),
    click.option(
        "--augment",
        type=click.Choice(["none", "flip", "crop-flip"]),
        default="none",
        show_default=True,
        help="Random changes to training images.",
    ),
    click.option(
        "--head-init",
        type=click.Choice(["probe", "random"]),
        default="probe",
        show_default=True,
        help="Start the head from the task's base head, or at random (members differ more).",
    ),
    click.option(
        "--seed", type=_SEED, default=0, show_default=True, help="Decides all randomness of training."
    ),
    click.option(
        "--method",
        "others",
        metavar="'METHOD [OPTIONS]'",
        multiple=True,
        help="One more adapter to train in the same forwards, with its own options "
        f"({', '.join(_OWN_FLAGS)} and the method's); all else is as said for the first. May be repeated.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "bf16"]),
        default="fp32",
        show_default=True,
        help="Of the frozen backbone and the forward; bf16 is for GPUs. What is trained is always fp32.",
    ),
    click.option(
        "--measure-precision",
        type=click.Choice(CHOICES),
        default=Precision.AUTO.value,
        show_default=True,
        help=f"Of measuring on the held-out images, as a server's --precision: {MEANING}.",
    ),
    _device,
    click.option(
        "--runs",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="COROLLA_RUNS",
        help="Folder for the state of unfinished runs. [env: COROLLA_RUNS]  [default: the user's cache]",
    ),
    click.option("--again", is_flag=True, help="Train even if this very run is registered already."),
    _store,
    _json,
]


class _Methods(click.Group):
    """One command for each registered method."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return summaries.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name.replace("-", "_")
        if ctx.resilient_parsing and name not in summaries.names():
            return None  # the shell asks what could come next
        return _train_command(_trainable(name))


def _trainable(name: str) -> Summary:
    method = summaries.get(name)
    if not method.trained:
        raise Unsupported(
            f"{method.title} is made of trained adapters and not trained itself",
            field="method",
            remedy=f"train its members, then type corolla adapters {name}",
        )
    return method


@click.group(
    cls=_Methods,
    epilog="\b\nExamples:\n  corolla train lora --data digits --image-size 56 --task digits\n"
    "  corolla train adaptformer --data photos/ --task plants --name plants-v2 --rank 16 --epochs 100\n"
    "  corolla train lora --data photos/ --task plants --device cuda --precision bf16\n"
    "  corolla train lora --data photos/ --task plants --method ssf --method 'lora --seed 1 --name lora-1'\n"
    "\nWith --method, several adapters train in the same forwards over the frozen backbone. Each ends as it "
    "would alone, dropout and drop path included, but for rounding.\n"
    "\nA killed run goes on where it stopped when the same command is typed again.",
)
def train() -> None:
    """Train adapters, evaluate them and register them."""


def _train_command(method: Summary) -> click.Command:
    def command(**options: Any) -> None:
        config = {setting.name: options.pop(f"config_{setting.name}") for setting in method.settings}
        _train(method, config, **options)

    source = f" ({method.paper})" if method.paper != "-" else ""
    command.__doc__ = f"Train {method.title}{source}, evaluate it and register it."
    rate = click.option(
        "--lr",
        "learning_rate",
        type=click.FloatRange(0, 1, min_open=True),
        default=method.learning_rate,
        show_default=True,
        help="Highest learning rate.",
    )
    for option in [*reversed(_COMMON), rate]:
        command = option(command)
    for setting in reversed(method.settings):
        command = _config_option(setting)(command)
    return click.command(method.name)(command)


def _config_option(setting: Setting) -> Callable[..., Any]:
    """The option of a method's setting; its limits are the method's own to check."""
    flag = f"--{setting.name.replace('_', '-')}"
    return click.option(
        f"{flag}/--no-{flag[2:]}" if setting.kind == "bool" else flag,
        f"config_{setting.name}",
        type={"bool": bool, "int": int, "float": float, "str": str}[setting.kind],
        default=setting.default,
        show_default=True,
        help=setting.description,
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One adapter that is asked for: values of the recipe's fields, and its method's settings."""

    method: Summary
    name: str | None
    values: dict[str, Any]
    config: dict[str, Any]

    def recipe(self) -> Recipe:
        from petl_vit import methods

        config = methods.get(self.method.name).configure(self.config).model_dump(mode="json")
        return Recipe.of(method=self.method.name, config=config, **self.values)

    def with_others(self, texts: Sequence[str]) -> list["_Asked"]:
        return [self, *(self._other(text) for text in texts)]

    def _other(self, text: str) -> "_Asked":
        """What a text such as `ssf --lr 0.01` asks for; what it does not say is as here."""
        try:
            name, *arguments = shlex.split(text)
        except ValueError:  # nothing, or a quotation mark that stays open
            raise InvalidInput(
                f"{text!r} names no method", field="method", remedy="write for example 'ssf --lr 0.01'"
            ) from None
        method = _trainable(name.replace("-", "_"))
        given = _given(method, arguments)
        config = {n.removeprefix("config_"): given.pop(n) for n in [*given] if n.startswith("config_")}
        values = self.values
        if method.name == self.method.name:
            config = self.config | config
        elif not _typed(click.get_current_context(), "learning_rate"):
            values = values | {"learning_rate": method.learning_rate}
        return _Asked(method=method, name=given.pop("name", None), values=values | given, config=config)


def _given(method: Summary, arguments: list[str]) -> dict[str, Any]:
    """The options of one adapter among others that are typed, by name."""
    context = click.get_current_context()
    options = [
        p for p in _train_command(method).params if p.name in _OWN or (p.name or "").startswith("config_")
    ]
    command = click.Command(method.name, params=options, add_help_option=False)
    with command.make_context(method.name, arguments, parent=context.parent) as own:
        return {name: value for name, value in own.params.items() if _typed(own, name)}


def _typed(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _train(method: Summary, config: dict[str, Any], **options: Any) -> None:
    store = Store.open(options.pop("url"))
    as_json, others = options.pop("as_json"), options.pop("others")
    runs = options.pop("runs") or Path(user_cache_dir("corolla", appauthor=False)) / "runs"
    values = {name: options.pop(name) for name in (*Recipe.model_fields,) if name in options}
    backbone = options.pop("backbone") or store.backbones.get(None).digest
    first = _Asked(method=method, name=options.pop("name"), values=values, config=config)
    asked = [
        (one.name or one.method.name.replace("_", "-"), one.recipe()) for one in first.with_others(others)
    ]
    common = {
        "backbone": backbone,
        "data": options.pop("source"),
        "runs": runs,
        "measure_precision": Precision(options.pop("measure_precision")),
        **options,
    }

    from training.run import job

    jobs = [job.Job(name=name, recipe=recipe, **common) for name, recipe in asked]
    outcomes = job.run_together(store, jobs, Bars())
    if as_json:
        documents = [{"reused": o.reused} | o.manifest.model_dump(mode="json") for o in outcomes]
        click.echo(json.dumps(documents if others else documents[0]))
        return
    for outcome in outcomes:
        _print_outcome(outcome)
    task, route = jobs[0].task, ", ".join(name for name, _ in asked)
    route = f"'{route}'" if others else route
    click.echo(f"Next: corolla serve, then corolla classify IMAGE --task {task} --route {route}")


def _print_outcome(outcome: "Outcome") -> None:
    manifest = outcome.manifest
    metrics, training = manifest.metrics, manifest.training
    verb = "is registered already" if outcome.reused else "is registered"
    on = f"on {training['heldout_images']} images (base head {metrics['base_accuracy']:.3f})"
    click.echo(
        f"{manifest} {verb}: held-out accuracy {metrics['accuracy']:.3f} {on}, "
        f"{int(metrics['parameters']):,} parameters, temperature {manifest.temperature:.2f}, "
        f"measured in {manifest.metrics_precision}"
    )


@click.command(
    epilog="\b\nExamples:\n  corolla evaluate --task digits --route lora --route 'lora, ssf' --data digits\n"
    "  corolla evaluate --task digits --route 0.5*lora --data digits --shift noise:3 --json",
)
@click.option("--task", required=True, help="The task.")
@click.option("--route", "texts", required=True, multiple=True, help="Route or named route; may be repeated.")
@click.option("--data", "sources", required=True, multiple=True, help="Labelled images; may be repeated.")
@click.option("--shift", "shift_texts", multiple=True, help="Also under NAME:SEVERITY, e.g. noise:3.")
@click.option(
    "--holdout",
    type=click.FloatRange(0.01, 0.9),
    help="Only the images that training with this --holdout holds out.  [default: all]",
)
@click.option(
    "--split-seed", type=_SEED, default=0, show_default=True, help="The split seed of that training."
)
@click.option("--limit", type=click.IntRange(1), help="At most so many images of each set.")
@click.option("--backbone", help="Name or digest.  [default: the only one in the store]")
@click.option("--extrapolate", is_flag=True, help="Allow alpha outside [0, 1].")
@click.option(
    "--precision",
    type=click.Choice(CHOICES),
    default=Precision.AUTO.value,
    show_default=True,
    help=f"What the backbone computes in, as a server's: {MEANING}.",
)
@_device
@_store
@_json
def evaluate(
    task: str,
    texts: tuple[str, ...],
    sources: tuple[str, ...],
    shift_texts: tuple[str, ...],
    holdout: float | None,
    split_seed: int,
    limit: int | None,
    backbone: str | None,
    extrapolate: bool,
    precision: str,
    device: str,
    url: str | None,
    as_json: bool,
) -> None:
    """Measure adapters and routes on labelled images, without a server."""
    store = Store.open(url)
    record = store.backbones.get(backbone)
    shifted = [None, *map(shift.parse, shift_texts)]
    named = []
    for text in texts:
        route, temperature, beyond = _named(store, task, text, extrapolate)
        resolved = resolve(route, task=task, store=store, backbone_digest=record.digest, extrapolate=beyond)
        named.append((resolved, temperature))

    from model_store.resolution.loading import Loader
    from model_store.resolution.precision import checked, subjects
    from petl_vit.device import chosen_device
    from training.data.dataset import split_dataset, subset
    from training.data.sources import load_dataset
    from training.measure.evaluation import Candidate

    candidates = [Candidate(route=resolved, temperature=t) for resolved, t in named]
    datasets = [load_dataset(source) for source in sources]
    if holdout is not None:
        datasets = [split_dataset(d, holdout=holdout, seed=split_seed)[1] for d in datasets]
    if limit is not None:
        datasets = [subset(d, min(limit, len(d)), 0) for d in datasets]
    bars = Bars()
    exact = Loader(store, record, device=chosen_device(device))
    members = (member for candidate in candidates for member in candidate.route.members)
    loader = checked(Precision(precision), exact, subjects(members), bars.note)
    by_dataset = [_measure(loader, candidates, dataset, shifted, bars) for dataset in datasets]
    found = [row for of_route in zip(*by_dataset, strict=True) for rows in of_route for row in rows]
    if as_json:
        click.echo(json.dumps([asdict(row) for row in found]))
    else:
        _print_measured(found)


def _measure(
    loader: "Loader",
    candidates: "list[Candidate]",
    dataset: "Dataset",
    shifted: "Sequence[Shift | None]",
    bars: Bars,
) -> "list[list[Measured]]":
    """Every route on one set of images, under every shift."""
    from training.measure.evaluation import measure_all

    what = str(candidates[0].route) if len(candidates) == 1 else f"{len(candidates)} routes"
    total = len(candidates) * len(shifted) * len(dataset)
    with bars.stage(f"{what} on {dataset.name}", total) as advance:
        return measure_all(loader, candidates, dataset, under=shifted, advance=advance)


def _named(store: Store, task: str, text: str, extrapolate: bool) -> tuple[Route, float, bool]:
    """A named route of that name, else the text; with its temperature, and whether it may extrapolate."""
    route = parse_route(text)
    named = store.routes.meant_by(task, route)
    if named is not None:
        return named.parsed(), named.temperature, named.extrapolate
    return route, 1.0, extrapolate


def _print_measured(rows: "list[Measured]") -> None:
    ensembles = any(len(row.member_accuracies) > 1 for row in rows)
    columns = ["route", "data", "images", "precision", "accuracy", "confidence"]
    table = _table(*columns, *(["agreement", "best member"] if ensembles else []))
    for row in rows:
        cells = [row.route, row.data, str(row.images), row.precision]
        cells += [f"{row.accuracy:.3f}", f"{row.confidence:.3f}"]
        if len(row.member_accuracies) > 1:
            best, accuracy = max(row.member_accuracies.items(), key=lambda item: item[1])
            cells += [f"{row.agreement:.3f}", f"{best} {accuracy:.3f}"]
        table.add_row(*cells)
    _print(table)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    """As wide as the terminal; as wide as it needs to be where there is none."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(
            80, console.measure(table, options=console.options.update(max_width=1000)).maximum
        )
    console.print(table)


@click.command(epilog="\b\nExamples:\n  corolla methods\n  corolla methods --json")
@click.option(
    "--backbone", default="vit_base_patch16_224", show_default=True, help="timm name or a stored one."
)
@_store
@_json
def methods(backbone: str, url: str | None, as_json: bool) -> None:
    """List the PETL methods and what they cost."""
    config = _config(backbone, url)

    from petl_vit import methods as registry
    from petl_vit.architecture import describe
    from petl_vit.methods.method import edit_kinds

    arch = describe(config)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "title": method.title,
            "parameters": method().parameters(arch),
            "edits": edit_kinds(method()),
            "foldable": method.foldable,
            "paper": method.paper,
            "starts_as_identity": method().starts_as_identity,
            "settings": method().model_dump(mode="json"),
        }
        for name, method in ((name, registry.get(name)) for name in registry.names())
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = _table("method", f"parameters on {backbone}", "edits", "folds", "paper", "settings")
    for row in rows:
        settings = ", ".join(f"{k} {v}" for k, v in row["settings"].items())
        folds = "yes" if row["foldable"] else "no"
        edits = ", ".join(row["edits"]) or "none"
        table.add_row(row["name"], f"{row['parameters']:,}", edits, folds, row["paper"], settings)
    _print(table)


def _config(backbone: str, url: str | None) -> BackboneConfig:
    """What is known of a stored backbone or of a timm name."""
    try:
        return Store.open(url).backbones.get(backbone).config
    except NotFound:
        import timm

        known = timm.get_pretrained_cfg(backbone)
        half = (0.5, 0.5, 0.5)
        size = known.input_size[-1] if known else 224
        return BackboneConfig(architecture=backbone, image_size=size, mean=half, std=half)
