"""`corolla feedback`: true labels for earlier predictions, sent to a server. Imports no torch."""

import click

from corolla import flags, tables
from corolla.connection import document, on_server
from corolla.flags import epilog
from petl_vit.errors import InvalidInput
from serving.client.blocking import Client
from serving.client.messages import TAKEN, status_name


@click.command(epilog=epilog("corolla feedback PREDICTION_ID cat PREDICTION_ID dog"))
@click.argument("labels", nargs=-1, required=True)
@on_server
@flags.as_json
def feedback(labels: tuple[str, ...], client: Client, as_json: bool) -> None:
    """Send true labels for earlier predictions.

    LABELS are pairs of a PREDICTION_ID and a CLASS. Exits 1 when a label was not counted.
    """
    if len(labels) % 2:
        raise InvalidInput("a prediction id without its class", field="labels", remedy="write ID CLASS pairs")
    response = client.feedback(zip(labels[::2], labels[1::2], strict=True))
    if as_json:
        tables.print_json(document(response))
    else:
        for result in response.results:
            outcome = result.message or ("correct" if result.correct else "incorrect")
            click.echo(f"{status_name(result)}: {outcome}")
    if any(status_name(result) not in TAKEN for result in response.results):
        click.get_current_context().exit(1)
