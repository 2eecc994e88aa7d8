"""`corolla domains`: where images come from, as a running server's metrics tell them apart. No torch."""

import click

from corolla import tables
from corolla.connection import document, on_server
from corolla.flags import as_json as as_json_flag
from corolla.flags import epilog
from corolla.group import CommandGroup
from serving.client.admin import AdminClient
from serving.client.blocking import Client


@click.group(cls=CommandGroup)
def domains() -> None:
    """List and add the domains of a server's metrics."""


@domains.command("list", epilog=epilog("corolla domains list", "corolla domains list --json"))
@on_server
@as_json_flag
def list_domains(client: Client, as_json: bool) -> None:
    """List the domains that a server's metrics tell apart.

    Images of any other domain count as `other`, those of none as `unset`.
    """
    listed = AdminClient(client).list_domains()
    if as_json:
        return tables.print_json(document(listed))
    for name in listed.domains:
        click.echo(name)
    click.echo(f"{len(listed.domains)} of at most {listed.limit}", err=True)


@domains.command(
    epilog=epilog("corolla domains add shop-4", "corolla domains add shop-4 --server localhost:50051")
)
@click.argument("domain")
@on_server
@as_json_flag
def add(domain: str, client: Client, as_json: bool) -> None:
    """Add a domain to a server's metrics, without a restart.

    It is there until the server stops; --domains of `corolla serve` is for those of every start.
    """
    answer = AdminClient(client).add_domain(domain)
    if as_json:
        return tables.print_json(document(answer))
    if not answer.added:
        return click.echo(f"the server has the domain {domain}")
    click.echo(
        f"the server counts {domain} from now on, its domain {len(answer.domains)} of at most {answer.limit}"
    )
    click.echo(f"note: to keep it, start the server with --domains {','.join(answer.domains)}", err=True)
