"""`corolla train`: one command for each registered method, with the method's own settings as options.

Further adapters of the same run are given as texts, which are parsed by the commands of their methods. What
computes is imported once the arguments are read.
"""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from platformdirs import user_cache_dir

from corolla import flags, standings, tables
from corolla.flags import epilog, option_of, typed
from corolla.group import CommandGroup
from corolla.interruption import goes_on
from corolla.method_settings import recipe_of, trainable
from corolla.task_input import apply_transform, task_input
from model_store.format.signature import SigningKey
from model_store.store import Store
from petl_vit import heap, summaries
from petl_vit.errors import InvalidInput
from petl_vit.precision import Precision
from petl_vit.summaries import Summary
from training.progress import Bars
from training.run.recipe import Recipe

if TYPE_CHECKING:
    from training.run.outcome import Outcome

_FLAGS = {"learning_rate": "--lr", "head_rate": "--head-lr"}
_EACH = ("name", *_FLAGS, "weight_decay", "warmup_ratio", "drop_path", "init", "head_init", "seed")
"""Options that each adapter of a run may set for itself, besides its method's settings."""
_OF_METHOD = ("drop_path",)
"""Options whose default is the method's."""


def _of_recipe(name: str, default: float | None = None, text: str = "") -> flags.Decorator:
    return option_of(name, Recipe.model_fields[name], flag=_FLAGS.get(name), default=default, text=text)


_COMMON: list[flags.Decorator] = [
    click.option(
        "--data",
        "source",
        required=True,
        help=flags.LABELLED_IMAGES,
    ),
    flags.task("Task to register under; created if it does not exist.", required=True),
    click.option("--name", help="Name to register under.  [default: the method's]"),
    flags.backbone,
    click.option(
        "--heldout", help="Held-out images from here, instead of a split or a part that --data has for it."
    ),
    flags.holdout("Share of the images that is held out."),
    flags.split_seed("Decides which images are held out, and what --limit and --shots keep."),
    click.option("--limit", type=click.IntRange(2), help="Train on at most so many images."),
    click.option("--shots", type=click.IntRange(1), help="Train on so many images of each class."),
    flags.max_pixels,
    flags.skip_bad,
    flags.columns,
    task_input,
    *map(_of_recipe, ("epochs", "batch_size", "weight_decay", "warmup_ratio", "augment", "balance")),
    *map(_of_recipe, ("init", "head_init", "seed", "keep")),
    click.option(
        "--method",
        "others",
        metavar="'METHOD [OPTIONS]'",
        multiple=True,
        help="One more adapter to train in the same forwards, with its own options "
        f"({', '.join(_FLAGS.get(name, flags.dashed(name)) for name in _EACH)} and the "
        "method's); all else is as for the first. May be repeated.",
    ),
    _of_recipe("precision"),
    flags.precision(
        "What held-out images are measured in, as a server's --precision", flag="--measure-precision"
    ),
    click.option(
        "--micro-batch",
        type=click.IntRange(1),
        help="Images of one forward and backward: less memory, with the same result to rounding.  [default: "
        "the batch, or as many as fit in memory]",
    ),
    flags.device,
    click.option(
        "--runs",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="COROLLA_RUNS",
        help="Folder for the state of unfinished runs (env: COROLLA_RUNS).  [default: the user's cache]",
    ),
    click.option("--again", is_flag=True, help="Train even if this very run is registered already."),
    click.option(
        "--sign", type=flags.PATH, metavar="KEY", help="Sign what is registered with the key in this file."
    ),
    click.option(
        "--promote", is_flag=True, help="Move `latest` even to an adapter that is far below its base head."
    ),
    flags.cached_store,
    flags.as_json,
]


class _Methods(CommandGroup):
    """One command for each registered method."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("--") and args[0] not in ("--help", *ctx.help_option_names):
            raise click.UsageError(
                f"name a method before {args[0]}, for example: corolla train lora {shlex.join(args)}", ctx
            )
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return summaries.names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = cmd_name.replace("-", "_")
        if ctx.resilient_parsing and name not in summaries.names():
            return None  # the shell asks what could come next
        return _train_command(trainable(name))

    def section_of(self, name: str) -> str:
        return "Methods"

    def line_of(self, name: str) -> str:
        return _help(summaries.get(name))


@click.group(
    cls=_Methods,
    epilog=epilog(
        "corolla train lora --data digits --image-size 56 --task digits",
        "corolla train adaptformer --data photos/ --task plants --name plants-v2 --rank 16 --epochs 100",
        "corolla train lora --data photos/ --task plants --device cuda --precision bf16",
        "corolla train ssf --data vtab-1k/dtd --task dtd --transform vtab",
        "corolla train lora --data labels.csv --label-column species --task plants --shots 16",
        "corolla train lora --data photos/ --task plants --method ssf --method 'lora --seed 1 --name lora-1'",
    )
    + "\n\nWith --method, several adapters train in the same forwards over the frozen backbone. Each ends "
    "as it would alone, dropout and drop path included, but for rounding.\n"
    "\nA killed run goes on where it stopped when the same command is typed again.",
)
def train() -> None:
    """Train adapters, evaluate them and register them."""


def _train_command(method: Summary) -> click.Command:
    def command(**options: Any) -> None:
        config = {setting.name: options.pop(f"config_{setting.name}") for setting in method.settings}
        _train(method, config, **options)

    own = [_of_recipe(name, getattr(method, name)) for name in _OF_METHOD]
    more = ", and more in a short run" if method.faster_if_short else ""
    rate = _of_recipe("learning_rate", text=f"; by default {method.learning_rate:g}{more}")
    own += [_of_recipe("head_rate"), rate]
    for option in [*reversed(_COMMON), *own]:
        command = option(command)
    for setting in reversed(method.settings):
        # The method checks their limits.
        kind = {"bool": bool, "int": int, "float": float, "str": str}[setting.kind]
        flag = flags.dashed(setting.name)
        command = flags.option(flag, f"config_{setting.name}", kind, setting.default, setting.description)(
            command
        )
    return click.command(method.name, help=_help(method))(command)


def _help(method: Summary) -> str:
    paper = f" ({method.paper})" if method.paper != "-" else ""
    return f"Train {method.title}{paper}, evaluate it and register it."


@dataclass(frozen=True, kw_only=True)
class _Adapter:
    """One adapter to train: values of the recipe's fields, and its method's settings."""

    method: Summary
    name: str | None
    values: dict[str, Any]
    config: dict[str, Any]

    def recipe(self) -> Recipe:
        return recipe_of(self.method.name, self.config, **self.values)

    def with_others(self, texts: Sequence[str]) -> list["_Adapter"]:
        return [self, *(self._other(text) for text in texts)]

    def _other(self, text: str) -> "_Adapter":
        """The adapter that a text such as `ssf --lr 0.01` describes; what it does not say is as here."""
        try:
            name, *arguments = shlex.split(text)
        except ValueError:  # nothing, or a quotation mark that stays open
            raise InvalidInput(
                f"{text!r} does not name a method", field="method", remedy="write for example 'ssf --lr 0.01'"
            ) from None
        method = trainable(name)
        given = _given(method, arguments)
        config = {n.removeprefix("config_"): given.pop(n) for n in [*given] if n.startswith("config_")}
        values = self.values
        if method.name == self.method.name:
            config = self.config | config
        else:
            context = click.get_current_context()
            defaults = [name for name in _OF_METHOD if not typed(context, name)]
            values = values | {name: getattr(method, name) for name in defaults}
        return _Adapter(method=method, name=given.pop("name", None), values=values | given, config=config)


def _given(method: Summary, arguments: list[str]) -> dict[str, Any]:
    """The options that are typed for one adapter among others, by name."""
    context = click.get_current_context()
    options = [
        p for p in _train_command(method).params if p.name in _EACH or (p.name or "").startswith("config_")
    ]
    command = click.Command(method.name, params=options, add_help_option=False)
    with command.make_context(method.name, arguments, parent=context.parent) as parsed:
        return flags.given(parsed)


def _train(method: Summary, config: dict[str, Any], **options: Any) -> None:
    heap.keep(os.environ)
    store = Store.open(options.pop("url"), cache=options.pop("cache"))
    as_json, others, sign = options.pop("as_json"), options.pop("others"), options.pop("sign")
    key = None if sign is None else SigningKey.read(sign.expanduser())  # before hours of training
    runs = options.pop("runs") or Path(user_cache_dir("corolla", appauthor=False)) / "runs"
    apply_transform(options)
    values = {name: options.pop(name) for name in (*Recipe.model_fields,) if name in options}
    backbone = options.pop("backbone") or store.backbones.get(None).digest
    first = _Adapter(method=method, name=options.pop("name"), values=values, config=config)
    adapters = [
        (adapter.name or adapter.method.name.replace("_", "-"), adapter.recipe())
        for adapter in first.with_others(others)
    ]
    common = {
        "backbone": backbone,
        "data": options.pop("source"),
        "runs": runs,
        "measure_precision": Precision(options.pop("measure_precision")),
        **options,
    }

    from training.run import job

    jobs = [job.Job(name=name, recipe=recipe, **common) for name, recipe in adapters]
    with goes_on():
        outcomes = job.run_together(store, jobs, Bars())
    if key is not None:
        for outcome in outcomes:
            store.adapters.sign(outcome.manifest, key)
    if as_json:
        names = standings.documents(store, [o.manifest for o in outcomes if not o.reused])
        documents = [
            {"reused": o.reused, "latest": o.latest, "names": names} | o.manifest.model_dump(mode="json")
            for o in outcomes
        ]
        return tables.print_json(documents if others else documents[0])
    for outcome in outcomes:
        _print_outcome(outcome)
    standings.say(store, [outcome.manifest for outcome in outcomes if not outcome.reused])
    if any(outcome.latest != outcome.manifest.version for outcome in outcomes):
        return
    task, route = jobs[0].task, ", ".join(name for name, _ in adapters)
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
    if "temperature_unfitted" in training:
        click.echo(f"The temperature is not fitted: {training['temperature_unfitted']}.")
    if outcome.warning:
        click.echo(outcome.warning)
