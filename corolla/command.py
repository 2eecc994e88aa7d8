"""The `corolla` command: finds the subcommands, loads the one that is used, and reports what went wrong.

One table lists the commands with a line about each, and only the one that runs is imported: `corolla --help`
imports none of them. Other packages add commands by entry points of the group `corolla.commands`.

Exit codes: 0 done; 1 done but not all of it, or a fault of corolla; 2 the user's mistake; 130 interrupted.
"""

import difflib
import errno
import hashlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import click

from corolla.group import CommandGroup, Lazy, running_command
from petl_vit.cpus import usable_cpus
from petl_vit.errors import CorollaError
from serving import environment

PLUGINS = "corolla.commands"
"""Entry-point group of the commands that other packages add."""

VARIABLES = frozenset(
    {
        "COROLLA_CACHE",
        "COROLLA_CACHE_BYTES",
        "COROLLA_DEBUG",
        "COROLLA_LOGITS",
        "COROLLA_PRINCIPALS",
        "COROLLA_RUNS",
        "COROLLA_SERVER",
        "COROLLA_STORE",
        "COROLLA_TLS_CA",
        "COROLLA_TLS_SERVER_NAME",
        "COROLLA_TOKEN",
        "COROLLA_TOKEN_FILE",
        "COROLLA_TRUSTED_KEYS",
    }
)
_NO_SPACE = {errno.ENOSPC: "full", errno.EDQUOT: "over its quota"}
COMPLETION = "_COROLLA_COMPLETE"  # set by a shell that asks click what could come next
COMMANDS: dict[str, Lazy] = {
    "train": Lazy(
        section="Train",
        line="Train adapters, evaluate them and register them.",
        extra="train",
        target="corolla.commands.train:train",
    ),
    "sweep": Lazy(
        section="Train",
        line="Tune methods by a grid, and register each one's winner.",
        extra="train",
        target="corolla.commands.sweep:sweep",
    ),
    "evaluate": Lazy(
        section="Train",
        line="Measure adapters and routes on labelled images.",
        extra="train",
        target="corolla.commands.evaluate:evaluate",
    ),
    "report": Lazy(
        section="Train",
        line="Write a page about the methods of a task.",
        extra="report",
        target="corolla.commands.report:report",
    ),
    "methods": Lazy(
        section="Train",
        line="List the PETL methods and what they cost.",
        extra="train",
        target="corolla.commands.methods:methods",
    ),
    "serve": Lazy(
        section="Serve",
        line="Serve every adapter from one resident backbone.",
        extra="serve",
        target="corolla.commands.serve:serve",
    ),
    "package": Lazy(
        section="Serve",
        line="Package the engine for other servers: TorchServe.",
        extra="torchserve",
        target="corolla.commands.package:package",
    ),
    "classify": Lazy(
        section="Serve",
        line="Classify images by a route.",
        extra="client",
        target="corolla.commands.classify:classify",
    ),
    "predict": Lazy(
        section="Serve",
        line="Classify many images without a server.",
        extra="serve",
        target="corolla.commands.predict:predict",
    ),
    "watch": Lazy(
        section="Serve",
        line="Watch how right the answers are, in a terminal.",
        extra="client",
        target="corolla.commands.watch:watch",
    ),
    "feedback": Lazy(
        section="Serve",
        line="Send true labels for earlier predictions.",
        extra="client",
        target="corolla.commands.feedback:feedback",
    ),
    "monitor": Lazy(
        section="Serve",
        line="Estimate accuracy and raise alarms, from metrics.",
        extra="monitor",
        target="corolla.commands.monitor:monitor",
    ),
    "tokens": Lazy(
        section="Serve",
        line="Create, list, revoke and rotate the tokens of a server's callers.",
        extra="serve",
        target="corolla.commands.tokens:tokens",
    ),
    "domains": Lazy(
        section="Serve",
        line="List and add the domains of a server's metrics.",
        extra="client",
        target="corolla.commands.domains:domains",
    ),
    "store": Lazy(
        section="Store",
        line="Verify, clear and copy a store.",
        extra="serve",
        target="corolla.commands.store:store",
    ),
    "backbones": Lazy(
        section="Store",
        line="Import and list frozen backbones.",
        extra="serve",
        target="corolla.commands.backbones:backbones",
    ),
    "tasks": Lazy(
        section="Store",
        line="List, show, refit and delete tasks.",
        extra="serve",
        target="corolla.commands.tasks:tasks",
    ),
    "adapters": Lazy(
        section="Store",
        line="List, alias, load, fold, move, delete adapters.",
        extra="serve",
        target="corolla.commands.adapters:adapters",
    ),
    "keys": Lazy(
        section="Store",
        line="Make and show keys that sign adapters.",
        extra="serve",
        target="corolla.commands.keys:keys",
    ),
    "export": Lazy(
        section="Store",
        line="Write models for ONNX Runtime.",
        extra="onnx",
        target="corolla.commands.export:export",
    ),
    "routes": Lazy(
        section="Store",
        line="Name routes, and show how a route is read.",
        extra="serve",
        target="corolla.commands.routes:routes",
    ),
}


class UnknownVariable(CorollaError):
    """A COROLLA_* variable that nothing reads, one letter away from one that is read."""


@click.group(
    cls=CommandGroup,
    lazy=COMMANDS,
    plugins=PLUGINS,
    epilog="Each command explains itself: corolla train --help",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(version("corolla"), prog_name="corolla", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (or set COROLLA_DEBUG=1).")
def corolla(debug: bool) -> None:
    """Train PETL adapters over one frozen Vision Transformer, and serve all of them, their ensembles
    and their interpolations from one resident copy of it."""
    if debug:
        os.environ["COROLLA_DEBUG"] = "1"


def _check_variables(environ: Mapping[str, str]) -> None:
    """Refuse a misspelt variable of every command; `corolla serve` checks the settings' variables too."""
    known = {name.removeprefix("COROLLA_"): name for name in VARIABLES}
    for name in environment.ours(environ):
        word = name.removeprefix("COROLLA_")
        close = difflib.get_close_matches(word, known, n=1, cutoff=0.75)
        if name not in VARIABLES and close:
            remedy = f"did you mean {known[close[0]]}?"
            raise UnknownVariable("the environment variable is not known", field=name, remedy=remedy)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; whatever goes wrong is reported in one line."""
    # Without this, OpenMP's threads spin between products and starve other processes on a busy machine.
    # It has an effect only when it is set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # What gRPC would write about a connection that failed, our errors say in plain words. Read at its import.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR" if arguments[:1] == ["serve"] else "NONE")
    cpus = usable_cpus()
    if cpus.by_quota:  # which numpy and scipy do not read; PyTorch is told by `petl_vit.device.use_threads`
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(cpus.count))
    command: click.Command = corolla
    try:
        _check_variables(os.environ)
        # As `corolla.main`, without its handling of errors; a command's return value is not an exit code.
        with corolla.make_context("corolla", list(arguments)) as context:
            try:
                corolla.invoke(context)
            finally:
                command = running_command(context)
        sys.stdout.flush()
        return 0
    except click.exceptions.Exit as finished:
        return finished.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _say(_usage(error), 2)
    except CorollaError as error:
        return _say(_with_flag(error, command), 2, error)
    except (click.Abort, KeyboardInterrupt) as stop:
        return _say("; ".join(["interrupted", *map(str, stop.args)]), 130)
    except OSError as error:
        if error.errno in _NO_SPACE:
            return _say(_without_space(error), 2, error)
        return _quiet() if error.errno == errno.EPIPE else _unexpected(error)
    except Exception as error:
        return _unexpected(error)


def _usage(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split()).rstrip(".")
    context = getattr(error, "ctx", None)
    return f"{message} (see {context.command_path} --help)" if context else message


def _with_flag(error: CorollaError, command: click.Command) -> str:
    """What an error says; the field that it begins with is written as the flag, where the command has one."""
    field, colon, problem = str(error).partition(": ")
    for option in command.params:
        names = {option.name, *(flag.lstrip("-").replace("-", "_") for flag in option.opts)}
        if colon and isinstance(option, click.Option) and field in names:
            named = f"--{field.replace('_', '-')}"
            return f"{named if named in option.opts else max(option.opts, key=len)}: {problem}"
    return str(error)


def _without_space(error: OSError) -> str:
    where = f" of {error.filename}" if error.filename else ""
    return f"the disk{where} is {_NO_SPACE[error.errno or 0]}; free space there and type the command again"


def _unexpected(error: Exception) -> int:
    name = type(error).__name__
    # The same fault has the same id everywhere, so that people can find each other's reports.
    path = [
        f"{Path(frame.filename).name}:{frame.name}" for frame in traceback.extract_tb(error.__traceback__)
    ]
    identity = hashlib.sha256("|".join([name, *path]).encode()).hexdigest()[:8]
    message = " ".join(str(error).split())
    remedy = "" if _debugging() else "; COROLLA_DEBUG=1 shows the traceback, please report it"
    return _say(f"unexpected {name}{': ' if message else ''}{message} (error {identity}){remedy}", 1, error)


def _quiet() -> int:
    """The reader of the output, such as `head`, has exited: there is nobody to report to."""
    # Python flushes stdout once more at exit and would complain there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _debugging() -> bool:
    return os.environ.get("COROLLA_DEBUG", "") not in ("", "0")


def _say(message: str, code: int, error: BaseException | None = None) -> int:
    if error is not None and _debugging():
        traceback.print_exception(error)
    print(f"corolla: {message}", file=sys.stderr)
    return code


def main() -> None:
    """The console script."""
    if COMPLETION in os.environ:
        corolla.main(prog_name="corolla")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
