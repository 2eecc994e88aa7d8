"""The answer says how its domain was counted; domains are added while the server runs."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result

from corolla.commands.classify import classify
from corolla.commands.domains import domains
from serving.client.admin import AdminClient
from serving.client.blocking import Client
from serving.client.messages import RequestFailed, request_of
from tests.serving.oip.requests import parameters, request
from tests.serving.triton_client import service_pb2_grpc
from tests.serving.world import Running, World, encoded


@pytest.fixture(scope="module")
def ours(world: World) -> Iterator[Running]:
    """A server whose domains the tests of this file add to."""
    with Running(world.settings(domains="studio,street")) as running:
        yield running


@pytest.fixture(scope="module")
def client(ours: Running) -> Iterator[Client]:
    with ours.client() as client:
        yield client


def run(ours: Running, *words: str) -> Result:
    command = {"classify": classify, "domains": domains}[words[0]]
    return CliRunner().invoke(command, [*words[1:], "--server", ours.address])


@pytest.mark.parametrize(
    ("domain", "counted", "note"),
    [
        ("studio", "studio", ""),
        ("", "unset", ""),
        ("other", "other", ""),
        ("stret", "other", "did you mean street?"),
        ("zoo", "other", "there is studio, street"),
    ],
)
def test_the_answer_says_how_its_domain_was_counted(
    ours: Running, client: Client, domain: str, counted: str, note: str
) -> None:
    before = ours.value("corolla_predictions_total", route="adhoc", domain=counted)
    asked = request_of([encoded(0)], task="shapes", route="lora", domain=domain)
    ((_, streamed),) = client.stream([("one", asked)])
    assert not isinstance(streamed, RequestFailed)
    for reply in (client.send(asked), streamed):
        assert reply.domain == counted
        assert note in reply.domain_note
        assert bool(note) == bool(reply.domain_note)

    with grpc.insecure_channel(ours.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        said = stub.ModelInfer(request(parameters=parameters(domain=domain))).parameters
    assert said["domain"].string_param == counted
    assert ("domain_note" in said) == bool(note)
    assert ours.value("corolla_predictions_total", route="adhoc", domain=counted) == before + 3


def test_the_command_warns_of_a_mistyped_domain(ours: Running, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(1))
    words = ("classify", str(tmp_path / "a.png"), "--task", "shapes", "--route", "lora", "--domain")
    mistyped, right = run(ours, *words, "stret", "--json"), run(ours, *words, "street")

    assert mistyped.exit_code == right.exit_code == 0
    assert "note: --domain: the server has no domain 'stret' and counts it as `other`" in mistyped.stderr
    assert "did you mean street?" in mistyped.stderr
    assert "domain" not in right.stderr


def test_a_domain_is_added_without_a_restart(ours: Running, client: Client) -> None:
    admin = AdminClient(client)
    assert client.classify([encoded(0)], task="shapes", route="best", domain="shop-4").domain == "other"
    assert admin.add_domain("shop-4").added
    assert client.classify([encoded(0)], task="shapes", route="best", domain="shop-4").domain == "shop-4"
    counted = {"route": "shapes/best", "domain": "shop-4"}
    assert ours.value("corolla_predictions_total", **counted) == 1
    assert ours.value("corolla_member_predictions_total", **counted, member="ssf") == 1
    assert not admin.add_domain("shop-4").added
    assert "shop-4" in admin.list_domains().domains


def test_the_command_lists_and_adds_domains_up_to_a_bound(ours: Running, client: Client) -> None:
    added = run(ours, "domains", "add", "fair")
    assert added.stdout.startswith("the server counts fair from now on, its domain ")
    assert "start the server with --domains studio,street," in added.stderr
    assert run(ours, "domains", "add", "fair").stdout == "the server has the domain fair\n"
    assert {"studio", "street", "fair"} <= set(run(ours, "domains", "list").stdout.split())

    limit = AdminClient(client).list_domains().limit
    refused = next(r for n in range(limit) if (r := run(ours, "domains", "add", f"new-{n}")).exit_code)
    assert isinstance(refused.exception, RequestFailed)
    assert refused.exception.code == "INVALID_ARGUMENT"
    assert len(run(ours, "domains", "list").stdout.split()) == limit
