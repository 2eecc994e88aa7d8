"""Which reference servers compare with, and when it cannot be used."""

from serving.monitor.references import references
from serving.monitor.samples import Reading
from tests.serving.monitor.world import DATA, DIGEST, ROUTE, Server, Servers, values

FULL = values(
    accuracy=0.93,
    members={"lora": 0.9, "ssf": 0.91},
    pairs={"lora:ssf": 0.95},
    estimates={"vote": 0.96},
    rates={"foreign": 0.05},
)


def two(first: Server, second: Server) -> Servers:
    return Servers(first, second)


def comparing(instance: str, *, digest: str = DIGEST, stale: bool = False) -> Server:
    server = Server(instance)
    server.compare_with(values(digest=digest), stale=stale)
    return server


def test_what_a_server_shows_is_read_whole() -> None:
    server = Server()
    server.compare_with(FULL)

    found = references(Servers(server).reading())

    assert found.usable == {ROUTE: FULL}
    assert found.problems == {}
    assert (found.status[ROUTE].accuracy, found.status[ROUTE].images) == (0.93, 1000)


def test_replicas_of_one_reference_have_one() -> None:
    found = references(two(comparing("one"), comparing("two")).reading())

    assert [*found.usable] == [ROUTE]


def test_different_references_while_adapters_are_rolled_out_are_not_used() -> None:
    found = references(two(comparing("one"), comparing("two", digest="e" * 12)).reading())

    assert found.usable == {}
    assert found.status[ROUTE].stale
    assert f"{DIGEST} on {DATA} (one), {'e' * 12} on {DATA} (two)" in found.problems[ROUTE]


def test_a_stale_reference_says_which_server_and_what_to_do() -> None:
    found = references(Servers(comparing("one", stale=True)).reading())

    assert found.usable == {}
    assert found.problems[ROUTE] == (
        "digits/live is not what its reference was measured on (one); measure it again: "
        "corolla routes reference live --task digits"
    )


def test_a_stale_route_without_any_reference_says_so_too() -> None:
    server = Server()
    server.compare_with(None, stale=True)

    found = references(Servers(server).reading())

    assert found.status == {}
    assert "measure it again" in found.problems[ROUTE]


def test_a_server_that_has_no_reference_yet_keeps_the_others_from_using_theirs() -> None:
    without = Server("two")
    without.compare_with(None)

    found = references(two(comparing("one"), without).reading())

    assert found.problems[ROUTE] == "not all servers have the reference of digits/live: two"


def test_no_reference_at_all_is_no_problem_of_references() -> None:
    server = Server()
    server.compare_with(None)

    assert references(Servers(server).reading()).problems == {}


def test_a_reference_of_too_few_images_says_so() -> None:
    server = Server()
    server.compare_with(values(images=12))
    samples = tuple(one for one in server.samples() if not one.name.endswith("accuracy_ratio"))

    found = references(Reading(at=1.0, samples=samples))

    assert found.problems[ROUTE] == ("the reference of digits/live has 12 images, too few to estimate from")


def test_numbers_that_are_not_finite_are_not_there() -> None:
    server = Server()
    server.compare_with(values(accuracy=float("nan"), confidence=float("inf")))

    found = references(Servers(server).reading())

    assert (found.usable, found.status) == ({}, {})
