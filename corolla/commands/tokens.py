"""`corolla tokens create|list|revoke|rotate`: who may call a server that has a file of principals.

Imports neither torch nor gRPC. A token itself is printed or written once, and kept nowhere.
"""

import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from corolla import files, flags, tables
from corolla.durations import Duration
from corolla.flags import epilog
from corolla.group import CommandGroup
from corolla.principals import Draft, Issued, changing, read
from petl_vit.errors import InvalidInput
from serving.access.principals import Principal, Scope, StoredToken

_LEAST_S = 1.0
_COLUMNS = ("principal", "scopes", "tasks", "routes", "limits", "token", "created", "ends", "state")
_WHOLE_TOKEN = re.compile(r"(?<![\w.@-])cor_([a-z2-7]{8})(?![A-Za-z0-9.@-])")


@click.group(cls=CommandGroup)
def tokens() -> None:
    """Create, list, revoke and rotate the tokens of a server's callers.

    They are kept in a file of principals, hashed. A server that is started with the same --principals
    follows it without a restart.
    """


def _in_file(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--principals`, and `--json`."""
    for decorate in (
        flags.as_json,
        click.option(
            "--principals",
            "path",
            type=flags.PATH,
            envvar="COROLLA_PRINCIPALS",
            metavar="FILE",
            help="File of principals, as of the server (env: COROLLA_PRINCIPALS).",
        ),
    ):
        command = decorate(command)
    return command


def _to_file(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--out` and `--overwrite` of what issues a token."""
    for decorate in (
        flags.overwrite,
        click.option(
            "--out",
            type=flags.PATH,
            metavar="FILE",
            help="Write the token to a file that you alone may read.  [default: standard output]",
        ),
    ):
        command = decorate(command)
    return command


_expires = click.option(
    "--expires", type=Duration(_LEAST_S), metavar="TIME", help="How long the token counts, as 12h or 90d."
)


@tokens.command(
    epilog=epilog(
        "corolla tokens create birds-app --scope infer --scope feedback --task 'birds*' > app.token",
        "corolla tokens create ci --scope admin --expires 90d --out ci.token",
        "corolla tokens create batch --scope infer --route birds/prod --rows-per-s 200",
        "corolla tokens create camera --scope infer --certificate camera.internal --no-token",
        "corolla tokens create birds-app                       # one more token for it",
    )
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What it may do: classify and embed, send labels, or administer; may be repeated.",
)
@click.option("--task", "tasks", multiple=True, metavar="GLOB", help="Only these tasks; may be repeated.")
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="GLOB",
    help="Only these routes and adapters, as birds/prod or birds/*; may be repeated.",
)
@click.option("--requests-per-s", type=float, metavar="N", help="Requests that it may send in any second.")
@click.option("--rows-per-s", type=float, metavar="N", help="Images, times members, in any second.")
@click.option(
    "--weight", type=float, metavar="N", help="Its share of a busy server beside others.  [default: 1]"
)
@click.option(
    "--certificate",
    "certificates",
    multiple=True,
    metavar="NAME",
    help="A name in a client certificate that is as good as its token; may be repeated.",
)
@click.option("--no-token", is_flag=True, help="With --certificate: it shows that alone.")
@_expires
@_to_file
@_in_file
def create(
    name: str,
    no_token: bool,
    expires: float | None,
    out: Path | None,
    overwrite: bool,
    path: Path | None,
    as_json: bool,
    **rights: Any,
) -> None:
    """Create a token, for a new principal or for one that is there.

    The token is printed once, alone on standard output, and cannot be shown again: the file keeps a hash.
    """
    rights = {field: value for field, value in rights.items() if value not in ((), None)}
    if no_token:
        _check_without(rights, expires, out)
        with changing(_path(path), create=True) as draft:
            principal = draft.add(name, rights)
        return _show_without(principal, draft, as_json)
    _check_out(out, overwrite)
    with changing(_path(path), create=True) as draft:
        issued = draft.create(name, rights, lifetime_s=expires)
    _hand_over(issued, out, as_json)


@tokens.command("list", epilog=epilog("corolla tokens list", "corolla tokens list --json"))
@_in_file
def list_tokens(path: Path | None, as_json: bool) -> None:
    """List the principals, what each may do, and its tokens."""
    draft = Draft(read(_path(path)))
    known = draft.known.principals
    tables.listing(
        [_document(principal, draft) for principal in known],
        as_json,
        columns=_COLUMNS,
        rows=[row for principal in known for row in _rows(principal, draft)],
        when_empty="no principal yet; make one: corolla tokens create NAME --scope infer",
    )


@tokens.command(
    epilog=epilog(
        "corolla tokens revoke k3vq7a2m       # one token, by its id",
        "corolla tokens revoke birds-app      # all of a principal's, and its certificates",
    )
)
@click.argument("which", metavar="ID|NAME")
@_in_file
def revoke(which: str, path: Path | None, as_json: bool) -> None:
    """End a token, or all that a principal can show, now.

    Calls that are under way end with their next request. Repeating it changes nothing.
    """
    with changing(_path(path)) as draft:
        revoked = draft.revoke(_token_id(which))
    if as_json:
        ended = [token.id for token in revoked.tokens]
        certificates = list(revoked.certificates)
        return tables.print_json(
            {"principal": revoked.principal.name, "tokens": ended, "certificates": certificates}
        )
    ended = [f"token {token.id}" for token in revoked.tokens]
    ended += [f"certificate {name}" for name in revoked.certificates]
    click.echo(f"{revoked.principal.name}: {', '.join(ended) or 'nothing'} revoked")
    if not ended:
        click.echo("it had ended before", err=True)


@tokens.command(
    epilog=epilog(
        "corolla tokens rotate birds-app > app.token",
        "corolla tokens rotate birds-app --overlap 7d --expires 90d --out app.token --overwrite",
        "corolla tokens rotate k3vq7a2m --overlap 0s          # in the place of one token, which ends now",
    )
)
@click.argument("which", metavar="NAME|ID")
@click.option(
    "--overlap",
    type=Duration(0),
    default="1d",
    show_default=True,
    metavar="TIME",
    help="How long the tokens before it still count.",
)
@click.option(
    "--expires",
    type=Duration(_LEAST_S),
    metavar="TIME",
    help="How long the new token counts, as 90d.  [default: as the one before]",
)
@_to_file
@_in_file
def rotate(
    which: str,
    overlap: float,
    expires: float | None,
    out: Path | None,
    overwrite: bool,
    path: Path | None,
    as_json: bool,
) -> None:
    """Create a token in the place of others, which end a while later.

    NAME replaces all tokens of a principal, ID one of them. What it may do stays as it is.
    """
    _check_out(out, overwrite)
    with changing(_path(path)) as draft:
        issued = draft.rotate(_token_id(which), lifetime_s=expires, overlap_s=overlap)
    _hand_over(issued, out, as_json)


def _path(path: Path | None) -> Path:
    if path is None:
        raise InvalidInput(
            "no file is named", field="principals", remedy="add --principals FILE, or set COROLLA_PRINCIPALS"
        )
    return path


def _token_id(which: str) -> str:
    """The id of a whole token, such as one that was found where it should not be; else the text."""
    whole = _WHOLE_TOKEN.search(which)
    return which if whole is None else whole[1]


def _check_out(out: Path | None, overwrite: bool) -> None:
    """Refuses a file before a token is issued that could then be handed to nobody."""
    if out is not None:
        files.check_free(out, overwrite)
        if not out.parent.is_dir():
            raise InvalidInput(f"{out.parent} is not a folder", field="out", remedy="make it first")


def _check_without(rights: dict[str, Any], expires: float | None, out: Path | None) -> None:
    if not rights.get("certificates"):
        raise InvalidInput(
            "without a token, it could show nothing", field="no_token", remedy="add --certificate NAME"
        )
    for value, flag in ((expires, "expires"), (out, "out")):
        if value is not None:
            raise InvalidInput("it is about a token", field=flag, remedy=f"leave out --{flag} or --no-token")


def _show_without(principal: Principal, draft: Draft, as_json: bool) -> None:
    if as_json:
        return tables.print_json(_document(principal, draft))
    click.echo(f"{_summary(principal)}, by certificate {', '.join(principal.certificates)}", err=True)


def _hand_over(issued: Issued, out: Path | None, as_json: bool) -> None:
    """Prints the token or writes it to a file; whatever else is said goes to standard error."""
    if out is not None:
        files.write_secret(out, f"{issued.text}\n".encode())
    if as_json:
        return tables.print_json(_issued_document(issued, out))
    if out is None:
        click.echo(str(issued.text))
    ends = "never ends" if issued.token.expires is None else f"ends {_when(issued.token.expires)}"
    where = "is shown this once" if out is None else f"is in {out}"
    print(f"token {issued.token.id}: {_summary(issued.principal)}, {ends}; it {where}", file=sys.stderr)
    for token in issued.replaced:
        print(f"token {token.id} before it ends {_when(token.expires)}", file=sys.stderr)


def _issued_document(issued: Issued, out: Path | None) -> dict[str, Any]:
    return {
        "principal": issued.principal.name,
        "id": issued.token.id,
        "expires": _iso(issued.token.expires),
        "replaced": [{"id": token.id, "expires": _iso(token.expires)} for token in issued.replaced],
    } | ({"token": str(issued.text)} if out is None else {"file": str(out)})


def _document(principal: Principal, draft: Draft) -> dict[str, Any]:
    """A principal without the hashes of its secrets."""
    document = principal.model_dump(mode="json", exclude={"tokens"})
    return document | {
        "tokens": [
            {
                "id": token.id,
                "created": _iso(token.created),
                "expires": _iso(token.expires),
                "state": _state(token, draft),
            }
            for token in principal.tokens
        ]
    }


def _rows(principal: Principal, draft: Draft) -> list[tuple[str, ...]]:
    rights = (
        principal.name,
        ", ".join(principal.scopes),
        "all" if principal.tasks is None else ", ".join(principal.tasks),
        "all" if principal.routes is None else ", ".join(principal.routes),
        _limits(principal),
    )
    shown = [
        (token.id, _when(token.created), _when(token.expires), _state(token, draft))
        for token in principal.tokens
    ]
    shown += [(f"certificate {name}", "", "", "active") for name in principal.certificates]
    blank = ("",) * len(rights)
    return [(*(blank if i else rights), *row) for i, row in enumerate(shown or [("none", "", "", "")])]


def _summary(principal: Principal) -> str:
    tasks = "all tasks" if principal.tasks is None else f"tasks {', '.join(principal.tasks)}"
    routes = "" if principal.routes is None else f", routes {', '.join(principal.routes)}"
    limits = _limits(principal)
    return f"{principal.name} may {', '.join(principal.scopes)} on {tasks}{routes}{limits and ', '}{limits}"


def _limits(principal: Principal) -> str:
    parts = [(principal.requests_per_s, "requests/s"), (principal.rows_per_s, "rows/s")]
    said = [f"{limit:g} {unit}" for limit, unit in parts if limit is not None]
    return ", ".join(said + [f"weight {principal.weight:g}"] * (principal.weight != 1))


def _state(token: StoredToken, draft: Draft) -> str:
    if token.revoked:
        return "revoked"
    return "active" if draft.counts(token) else "expired"


def _when(moment: datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%MZ}"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"
