"""The flags of the command line: each one that several commands share is defined here, once.

Imports neither torch nor gRPC, so that a command's help waits for neither.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import annotated_types as limits
import click
from click.core import ParameterSource
from pydantic.fields import FieldInfo

from model_store.place.cache import MOST_BYTES, Cache
from petl_vit.errors import InvalidInput
from petl_vit.image_input import MAX_PIXELS
from petl_vit.precision import CHOICES, MEANING, Precision
from serving.client.token import Token, checked

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

DEVICES = ("auto", "cpu", "cuda")
SEED = click.IntRange(0, 2**31 - 1)
PATH = click.Path(path_type=Path)


def epilog(*examples: str) -> str:
    """The examples at the end of a command's help, one command line each."""
    return "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)


def typed(context: click.Context, name: str) -> bool:
    """Whether a parameter was typed on the command line; a default or a variable does not count."""
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def given(context: click.Context) -> dict[str, Any]:
    """The parameters that were typed on the command line, by name."""
    return {name: value for name, value in context.params.items() if typed(context, name)}


LABELLED_IMAGES = (
    "Labelled images: a folder, .zip, .npz, .csv or .parquet, a VTAB-1K task, hf:NAME, `digits` or `mnist`; "
    "SOURCE::PART is a part of it."
)
"""The help of an option that takes any source of labelled images."""

# Flags of one value

store = click.option(
    "--store",
    "url",
    envvar="COROLLA_STORE",
    metavar="URL",
    help="Folder or URL of the store (default: the user's data folder; env: COROLLA_STORE).",
)


def cached_store(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--store`, and where a command that reads tensors keeps them: it is called with `url` and a `cache`."""

    @store
    @click.option(
        "--cache",
        type=PATH,
        metavar="FOLDER",
        envvar="COROLLA_CACHE",
        help="Folder in which tensors of the store are kept, shared with other commands and servers "
        "(env: COROLLA_CACHE).  [default: of an object store, the user's cache; else none]",
    )
    @click.option(
        "--cache-bytes",
        type=click.IntRange(0),
        default=MOST_BYTES,
        show_default=True,
        envvar="COROLLA_CACHE_BYTES",
        help="Bytes of the cache; the least recently used leave it first, and 0 keeps nothing "
        "(env: COROLLA_CACHE_BYTES).",
    )
    @wraps(command)
    def run(url: str | None, cache: Path | None, cache_bytes: int, **rest: Any) -> Any:
        return command(url=url, cache=Cache.of_user(url, cache, cache_bytes), **rest)

    return run


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace files that exist.")
extrapolate = click.option("--extrapolate", is_flag=True, help="Allow alphas outside [0, 1].")
backbone = click.option("--backbone", help="Name or digest.  [default: the only one in the store]")
route = click.option(
    "--route", required=True, help="What answers: `lora`, `0.6*lora, ssf`, or a named route."
)
task_filter = click.option("--task", metavar="TASK", help="Only those of one task.")
device = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Where the backbone runs.",
)


max_pixels = click.option(
    "--max-pixels",
    type=click.IntRange(1),
    default=MAX_PIXELS,
    show_default=True,
    envvar="COROLLA_MAX_PIXELS",
    help="Pixels of one decoded image; larger JPEGs are decoded at a reduced scale.",
)
skip_bad = click.option(
    "--skip-bad", is_flag=True, help="Leave out images that cannot be used, instead of refusing the set."
)


def trusted_keys(what: str) -> Decorator:
    """`--trusted-keys`, as of a server; `what` has to be vouched for, in the words of the help."""
    return click.option(
        "--trusted-keys",
        type=PATH,
        metavar="FILE",
        envvar="COROLLA_TRUSTED_KEYS",
        help=f"File of public keys and digests, as of `corolla serve`: one of them has to vouch for {what} "
        "(env: COROLLA_TRUSTED_KEYS).",
    )


def columns(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--image-column` and `--label-column` of labelled images."""
    for what, text in (("label", "labels"), ("image", "images or of their paths")):
        command = click.option(
            f"--{what}-column",
            metavar="COLUMN",
            default="",
            help=f"Column of {text} in a table or a set of Hugging Face.  [default: by its name or kind]",
        )(command)
    return command


def task(
    text: str = "Task; may be left out where there is only one.", *, required: bool = False
) -> Decorator:
    """`--task`; the text says what it means to the command."""
    return click.option("--task", metavar="TASK", required=required, help=text)


def holdout(text: str, default: float | None = 0.2) -> Decorator:
    """`--holdout`, the share of labelled images that is not trained on."""
    share = click.FloatRange(0.01, 0.9)
    return click.option("--holdout", type=share, default=default, show_default=default is not None, help=text)


def split_seed(text: str) -> Decorator:
    """`--split-seed`, which decides the images that are held out."""
    return click.option("--split-seed", type=SEED, default=0, show_default=True, help=text)


def precision(subject: str = "What the backbone computes in", flag: str = "--precision") -> Decorator:
    """`--precision` of what measures or serves, for which auto may choose."""
    return click.option(
        flag,
        type=click.Choice(CHOICES),
        default=Precision.AUTO.value,
        show_default=True,
        help=f"{subject}; {MEANING}.",
    )


# Flags of a running server


@dataclass(frozen=True, kw_only=True)
class Connection:
    """A running server and how to reach it.

    Attributes:
        address: HOST:PORT, or `unix:/path` of a socket.
        ca: PEM file of the CA that signed the server's certificate.
        certificate, key: PEM files that say who we are.
        server_name: The name in the server's certificate, where it is not the address's host. TLS is spoken
            where any of these four is given.
        timeout_s: Seconds that the server may take.
        token: The bearer token that calls show, or the path of its file.
        insecure: Whether the token may leave the machine in plain text.
    """

    address: str
    ca: Path | None
    certificate: Path | None
    key: Path | None
    server_name: str | None
    timeout_s: float
    token: Token | None = field(default=None, repr=False)
    insecure: bool = False


def server(text: str, default: str | None = None) -> Decorator:
    """`--server` and the flags that belong to it.

    The command is called with a `connection`, which is None where there is no server; flags that would then
    be ignored are refused. A server that only the environment names gives way to a `--store` that was typed.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(
            "--server",
            metavar="HOST:PORT",
            envvar="COROLLA_SERVER",
            default=default,
            show_default=True,
            help=f"{text.rstrip('.')} (env: COROLLA_SERVER).",
        )
        @click.option(
            "--tls-ca",
            type=PATH,
            envvar="COROLLA_TLS_CA",
            help="PEM file; speak TLS to the server, trust this CA (env: COROLLA_TLS_CA).",
        )
        @click.option("--tls-certificate", type=PATH, help="PEM file; who you are, to a server that asks.")
        @click.option("--tls-key", type=PATH, help="PEM file; the certificate's key.")
        @click.option(
            "--tls-server-name",
            metavar="NAME",
            envvar="COROLLA_TLS_SERVER_NAME",
            help="Name in the server's certificate, if not the host's (env: COROLLA_TLS_SERVER_NAME).",
        )
        @click.option(
            "--token-file",
            type=PATH,
            envvar="COROLLA_TOKEN_FILE",
            help="File of your bearer token (env: COROLLA_TOKEN_FILE; COROLLA_TOKEN is the token itself).",
        )
        @click.option(
            "--insecure",
            is_flag=True,
            help="Send the token to another machine without TLS, if you trust the network.",
        )
        @click.option(
            "--timeout",
            type=click.FloatRange(0, min_open=True),
            default=30.0,
            show_default=True,
            help="Seconds that the server may take.",
        )
        @wraps(command)
        def run(
            server: str | None,
            tls_ca: Path | None,
            tls_certificate: Path | None,
            tls_key: Path | None,
            tls_server_name: str | None,
            token_file: Path | None,
            insecure: bool,
            timeout: float,
            **rest: Any,
        ) -> Any:
            context = click.get_current_context()
            if server is None or (typed(context, "url") and not typed(context, "server")):
                _refuse_without_server()
                return command(connection=None, **rest)
            connection = Connection(
                address=server,
                ca=tls_ca,
                certificate=tls_certificate,
                key=tls_key,
                server_name=tls_server_name,
                timeout_s=timeout,
                token=_token(token_file),
                insecure=insecure,
            )
            return command(connection=connection, **rest)

        return run

    return decorate


def port_access(command: Callable[..., Any]) -> Callable[..., Any]:
    """Flags of what reads metrics or a status by HTTP: how an address is trusted, and what it is shown."""
    for decorate in (
        click.option(
            "--tls-server-name",
            metavar="NAME",
            envvar="COROLLA_TLS_SERVER_NAME",
            help="Name in the certificate of an https:// address, if not the host's "
            "(env: COROLLA_TLS_SERVER_NAME).",
        ),
        click.option(
            "--tls-ca",
            type=PATH,
            envvar="COROLLA_TLS_CA",
            help="PEM file; trust this CA of an https:// address (env: COROLLA_TLS_CA).",
        ),
        click.option(
            "--insecure",
            is_flag=True,
            help="Send the token to another machine without TLS, on a network you trust.",
        ),
        click.option(
            "--token-file",
            type=PATH,
            metavar="FILE",
            help="File of the bearer token to show, as of a server's --metrics-token-file.",
        ),
    ):
        command = decorate(command)
    return command


def _token(file: Path | None) -> Token | None:
    """The token of the flag, else of the variables. No flag takes its text: every user may list processes.

    Raises:
        InvalidInput: Both variables are set, or one holds something else.
    """
    text = os.environ.get("COROLLA_TOKEN")
    if not text or typed(click.get_current_context(), "token_file"):
        return file
    if file is not None:
        raise InvalidInput(
            "it is set, and COROLLA_TOKEN_FILE too", field="COROLLA_TOKEN", remedy="unset one of them"
        )
    return checked(text, "COROLLA_TOKEN")


def _refuse_without_server() -> None:
    context = click.get_current_context()
    names = ("tls_ca", "tls_certificate", "tls_key", "tls_server_name", "token_file", "insecure", "timeout")
    for name in names:
        if typed(context, name):
            raise InvalidInput("it needs a server", field=name, remedy="add --server HOST:PORT")


# Flags generated from pydantic fields


def option_of(
    name: str, field: FieldInfo, *, flag: str | None = None, default: Any = None, text: str = ""
) -> Decorator:
    """The flag of a pydantic field: its type, limits, default and description.

    Args:
        name: The field's name, and the parameter's.
        flag: `--lr` where the flag is not called like the field.
        default: In place of the field's own.
        text: What follows the field's description.
    """
    kinds = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    optional = NoneType in get_args(field.annotation)
    kind = kinds[0] if optional else field.annotation
    if default is None and not field.is_required():
        default = field.default
    text = f"{field.description or ''}{text}"
    return option(flag or dashed(name), name, _type(kind, field.metadata), default, text)


def option(flag: str, name: str, kind: Any, default: Any, text: str) -> Decorator:
    """A flag `--x` for a value of a type, or `--x/--no-x` for a bool; `text` is a phrase."""
    return click.option(
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        name,
        type=kind,
        default=default,
        show_default=default not in (None, ""),
        help=_sentence(text),
    )


def dashed(name: str) -> str:
    """What the command line calls a field: `max_images` is `--max-images`."""
    return f"--{name.replace('_', '-')}"


def _type(kind: Any, metadata: list[Any]) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if kind not in (int, float) or not metadata:
        return kind
    bounds: dict[str, Any] = {}
    for limit in metadata:
        match limit:
            case limits.Ge(ge=low):
                bounds |= {"min": low}
            case limits.Gt(gt=low):
                bounds |= {"min": low, "min_open": True}
            case limits.Le(le=high):
                bounds |= {"max": high}
            case limits.Lt(lt=high):
                bounds |= {"max": high, "max_open": True}
    return click.IntRange(**bounds) if kind is int else click.FloatRange(**bounds)


def _sentence(phrase: str) -> str:
    """A phrase with a capital, but for words such as gRPC and PEM, and a full stop."""
    capital = phrase[:1].upper() + phrase[1:] if phrase[:2].islower() else phrase
    return f"{capital}." if phrase else ""
