"""`corolla sweep`: tunes methods by a grid and registers each one's winner."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from platformdirs import user_cache_dir

from corolla import flags, standings, tables
from corolla.flags import epilog, option_of
from corolla.interruption import goes_on
from corolla.task_input import apply_transform, task_input
from model_store.names import BASE, check_name
from model_store.store import Store
from petl_vit import heap
from petl_vit.precision import Precision
from training.run.recipe import Recipe
from training.study import grids
from training.study.trials import State

if TYPE_CHECKING:
    from training.run.outcome import Outcome
    from training.study.sweep import Swept, Tuned


def _of_recipe(name: str) -> flags.Decorator:
    return option_of(name, Recipe.model_fields[name])


_OF_SWEEP = ("trials", "validation", "together", "prune", "storage", "restart", "workers", "ray")
_FLAGS: list[flags.Decorator] = [
    click.argument("names", metavar="[METHOD]...", nargs=-1),
    click.option(
        "--methods", "more", multiple=True, help="Methods, separated by commas, or `all`; may be repeated."
    ),
    click.option(
        "--data",
        "source",
        required=True,
        help=flags.LABELLED_IMAGES,
    ),
    flags.task("Task to register under; created if it does not exist.", required=True),
    click.option(
        "--grid",
        "grid_name",
        default="small",
        show_default=True,
        help="What is tried: `small` (four trials a method), `paper` (the study's grids), or a JSON file.",
    ),
    click.option("--trials", type=click.IntRange(1), help="At most so many trials of each method."),
    click.option(
        "--validation",
        type=click.FloatRange(0.02, 0.33),
        default=0.2,
        show_default=True,
        help="Share of the training images that trials are measured on, where --data has no part for it.",
    ),
    click.option(
        "--together",
        type=click.IntRange(1, 64),
        help="Trials of one forward.  [default: 4 if that is measured to pay, else 1]",
    ),
    click.option(
        "--prune/--no-prune",
        default=True,
        show_default=True,
        help="End trials that are far behind the best of their method.",
    ),
    click.option("--name", help="Name of the sweep, which later calls go on with.  [default: the task's]"),
    click.option("--restart", is_flag=True, help="Forget the trials of an earlier sweep of this name."),
    click.option(
        "--storage",
        metavar="URL",
        help="Optuna storage that several machines share, or a journal file (x.log).  "
        "[default: a file in --runs]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 256),
        default=1,
        show_default=True,
        help="Processes of this machine that run trials, or Ray's tasks at a time with --ray local.",
    ),
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Run trials as tasks of this Ray cluster, such as ray://host:10001, or of a `local` one.",
    ),
    flags.backbone,
    click.option("--heldout", help="Held-out images from here, instead of a split."),
    flags.holdout("Share of the images that is held out; trials never see them."),
    flags.split_seed("Decides which images are held out, and which are validation images."),
    click.option("--limit", type=click.IntRange(2), help="Train on at most so many images."),
    click.option("--shots", type=click.IntRange(1), help="Train on so many images of each class."),
    flags.max_pixels,
    flags.skip_bad,
    flags.columns,
    task_input,
    *map(_of_recipe, ("epochs", "batch_size", "weight_decay", "warmup_ratio")),
    click.option(
        "--drop-path",
        type=click.FloatRange(0, 1, max_open=True),
        help="Stochastic depth of the last block.  [default: the method's]",
    ),
    *map(_of_recipe, ("augment", "balance", "init", "head_init", "seed", "precision")),
    flags.precision(
        "What held-out images are measured in, as a server's --precision", flag="--measure-precision"
    ),
    flags.device,
    click.option(
        "--runs",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="COROLLA_RUNS",
        help="Folder for unfinished runs and sweeps (env: COROLLA_RUNS).  [default: the user's cache]",
    ),
    click.option(
        "--promote", is_flag=True, help="Move `latest` even to adapters that are far below their base head."
    ),
    flags.cached_store,
    flags.as_json,
]


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_FLAGS):
        command = option(command)
    return command


@click.command(
    epilog=epilog(
        "corolla sweep lora ssf full --data digits --image-size 56 --task digits",
        "corolla sweep --methods all --data photos/ --task plants --epochs 100",
        "corolla sweep lora --data photos/ --task plants --grid paper --trials 8",
        "corolla sweep lora ssf --data photos/ --task plants --grid mine.json --name second",
    )
    + '\n\nA grid of your own: {"lora": {"rank": [4, 16], "lr": [0.001]}, "*": {"lr_factor": [1, 2]}}\n'
    "\nExit codes: 0 every method has a registered winner; 1 some have none; 2 a mistake. An interrupted "
    "sweep goes on when the same command is typed again."
)
@_options
def sweep(**options: Any) -> None:
    """Tune methods by a grid, and register each one's winner.

    Trials learn a part of the training images and are measured on the rest of them. The winner of each method
    is trained on both and registered as `corolla train` would do it.
    """
    heap.keep(os.environ)
    url, cache = options.pop("url"), options.pop("cache")
    store = Store.open(url, cache=cache)
    methods = grids.chosen_methods([*options.pop("names"), *options.pop("more")])
    grid = grids.grid_of(options.pop("grid_name"))
    for method in methods:
        grid.settings(method)
    as_json, swept = options.pop("as_json"), _swept(store, url, methods, grid, options)
    registered = [t.outcome.manifest for t in swept.methods if t.outcome and not t.outcome.reused]
    if as_json:
        names = standings.documents(store, registered)
        tables.print_json(_document(swept) | {"names": names})
    else:
        _print(swept)
        standings.say(store, registered)
        if (best := next((t.outcome for t in _best_first(swept.methods) if t.outcome), None)) is not None:
            click.echo(_next(best))
    if any(tuned.outcome is None for tuned in swept.methods):
        click.get_current_context().exit(1)


def _swept(
    store: Store, url: str | None, methods: Sequence[str], grid: grids.Grid, options: dict[str, Any]
) -> "Swept":
    runs = options.pop("runs") or Path(user_cache_dir("corolla", appauthor=False)) / "runs"
    backbone = options.pop("backbone") or store.backbones.get(None).digest
    own = {name: options.pop(name) for name in _OF_SWEEP}
    name = check_name(options.pop("name") or options["task"], "name")
    apply_transform(options)
    values = {name: options.pop(name) for name in (*Recipe.model_fields,) if name in options}
    values = {name: value for name, value in values.items() if value is not None}
    recipe = Recipe.of(method=methods[0], **values)

    from training.run.job import Job
    from training.study import sweep as study
    from training.study.board import Board
    from training.study.session import Sweep

    job = Job(
        backbone=backbone,
        name=methods[0],
        data=options.pop("source"),
        recipe=recipe,
        runs=runs,
        measure_precision=Precision(options.pop("measure_precision")),
        **options,
    )
    again = "the same command{} goes on where it stopped".format(
        " without --restart" if own["restart"] else ""
    )
    with goes_on(again), Board(recipe.epochs).closing() as board:
        what = Sweep(name=name, grid=grid, methods=methods, job=job, **own)
        return study.run(store, what, board, url=url)


def _print(swept: "Swept") -> None:
    table = tables.table_of(
        "method", "adapter", "held-out", "validation", "parameters", "trials", "pruned", "failed", "chosen"
    )
    for tuned in _best_first(swept.methods):
        outcome, winner = tuned.outcome, tuned.winner
        states = [trial.state for trial in tuned.trials]
        table.add_row(
            tuned.method,
            str(outcome.manifest) if outcome else "-",
            f"{outcome.manifest.metrics['accuracy']:.3f}" if outcome else "",
            f"{winner.value:.3f}" if winner and winner.value is not None else "",
            f"{winner.parameters:,}" if winner else "",
            str(len(states)),
            str(states.count(State.PRUNED) or ""),
            str(states.count(State.FAILED) or ""),
            winner.settings if winner else tuned.problem,
        )
    if (registered := [tuned.outcome.manifest for tuned in swept.methods if tuned.outcome]) != []:
        base = registered[0].metrics["base_accuracy"]
        table.add_row("base head", f"{registered[0].task}/{BASE}", f"{base:.3f}", *[""] * 6)
    tables.print_table(table)
    for tuned in swept.methods:
        for trial in tuned.trials:
            if trial.state is State.FAILED:
                click.echo(f"{trial} ({trial.settings}) failed: {trial.reason}")
        if tuned.outcome is None:
            click.echo(f"{tuned.method} has no adapter: {tuned.problem}")
        elif tuned.outcome.warning:
            click.echo(tuned.outcome.warning)
    if swept.saved.packs:
        click.echo(_saved(swept))
    click.echo(f"Every trial is in {swept.log}")


def _next(best: "Outcome") -> str:
    """How to use the winner of the highest validation accuracy."""
    manifest = best.manifest
    route = manifest.name if best.latest == manifest.version else f"{manifest.name}:{manifest.version}"
    return f"Next: corolla serve, then corolla classify IMAGE --task {manifest.task} --route {route}"


def _best_first(methods: "Sequence[Tuned]") -> "list[Tuned]":
    """The winners in the order of their validation accuracies: the held-out images choose nothing."""
    return sorted(methods, key=lambda t: t.winner.order if t.winner else (1.0, 0, 0.0, 0.0, 0))


def _saved(swept: "Swept") -> str:
    saved = swept.saved
    rows = saved.rows_alone - saved.rows
    runs = "run" if saved.packs == 1 else "runs"
    return (
        f"{saved.trials} trials shared {saved.packs} joint {runs}: {saved.seconds:.0f} s of computing "
        f"instead of an estimated {saved.seconds_alone:.0f} s alone; {rows:,} of {saved.rows_alone:,} image "
        "rows shared"
    )


def _document(swept: "Swept") -> dict[str, Any]:
    return {
        "methods": [
            {
                "method": tuned.method,
                "adapter": str(tuned.outcome.manifest) if tuned.outcome else None,
                "accuracy": tuned.outcome.manifest.metrics["accuracy"] if tuned.outcome else None,
                "validation": tuned.winner.value if tuned.winner else None,
                "problem": tuned.problem,
                "reused": bool(tuned.outcome and tuned.outcome.reused),
                "chosen": tuned.winner.place if tuned.winner else None,
                "trials": [trial.document() for trial in tuned.trials],
            }
            for tuned in _best_first(swept.methods)
        ],
        "joint": vars(swept.saved),
        "log": str(swept.log),
    }
