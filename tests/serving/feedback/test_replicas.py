"""Replicas that share one stream of labels, in one SQLite file and in a real PostgreSQL."""

import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text
from sqlalchemy.engine import make_url

from petl_vit.errors import Unreachable
from serving.client.labels import status_name
from serving.feedback.database import Database
from tests.postgresql import Postgresql
from tests.serving.feedback.parts import (
    PREDICTION_IDS,
    ROUTE,
    feedback_over,
    label_store,
    metrics_of_route,
    predictions,
    rows,
    sent,
    statuses,
    stream_of,
)
from tests.serving.feedback.recount import recounted, shown
from tests.serving.metrics.counting import counts
from tests.serving.world import WAIT_S, Running, World, encoded


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Postgresql]:
    with Postgresql() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return count()


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path, numbers: Iterator[int]) -> Callable[[], str]:
    """Makes an empty place for labels."""
    if request.param == "sqlite":
        return lambda: str(tmp_path / f"{next(numbers)}.db")
    cluster = request.getfixturevalue("postgresql")
    return lambda: str(cluster.make(f"labels_{next(numbers)}"))


def test_two_replicas_at_once_show_together_what_an_offline_recount_of_the_labels_gives(
    world: World, new_place: Callable[[], str]
) -> None:
    place, made = new_place(), predictions(world, 60)
    labels = [*stream_of(made)]
    # Every label goes to both replicas, in different orders: a client that repeats what may have been lost.
    orders = [np.random.default_rng(seed).permutation(len(labels)) for seed in (1, 2)]
    replicas = [metrics_of_route() for _ in orders]
    with ExitStack() as stack:
        taking = [
            stack.enter_context(
                closing(feedback_over(world, metrics, PREDICTION_IDS, place, replica=f"replica-{number}"))
            )
            for number, metrics in enumerate(replicas)
        ]

        def send(number: int) -> list[str]:
            said: list[str] = []
            for start in range(0, len(labels), 25):
                part = [labels[i] for i in orders[number][start : start + 25]]
                said += statuses(taking[number].take(part))
            return said

        with ThreadPoolExecutor(2) as threads:
            answers = [*threads.map(send, range(2))]

    kept = rows(place)
    assert shown(*(metrics.registry.collect() for metrics in replicas)) == pytest.approx(recounted(kept))
    for metrics, said in zip(replicas, answers, strict=True):
        submitted = counts(metrics, "corolla_feedback_submissions_total", "status", route=ROUTE)
        assert {status: n for status, n in submitted.items() if n} == Counter(said)
    assert len({row["nonce"] for row in kept}) == len(made)


def test_two_servers_take_one_stream_of_labels_and_show_each_once(
    world: World, postgresql: Postgresql
) -> None:
    place = postgresql.make("served")
    with ExitStack() as stack:
        servers = [
            stack.enter_context(Running(world.settings(labels=place, replica=name, label_share=1.0)))
            for name in ("a", "b")
        ]
        clients = [stack.enter_context(server.client()) for server in servers]
        results = clients[0].classify([*map(encoded, range(30))], route="best", task="shapes").results
        labels = [(result.prediction_id, i % 3) for i, result in enumerate(results)]
        with ThreadPoolExecutor(2) as threads:
            halves = threads.map(lambda client: client.feedback(labels[:20]).results, clients)
            said = Counter(status_name(result) for half in halves for result in half)
        said.update(map(status_name, clients[1].feedback(labels, source="gold").results))
        scrapes = [scraped(server) for server in servers]

    assert said == {"matched": 30, "duplicate": 40}
    assert shown(*scrapes) == pytest.approx(recounted(rows(place)))
    submitted = shown(*scrapes, names=["corolla_feedback_submissions_total"])
    assert sum(submitted.values()) == 70


def scraped(server: Running) -> list[Metric]:
    """What a server shows on its metrics port."""
    address = f"http://127.0.0.1:{server.server.metrics_port}/metrics"
    with urllib.request.urlopen(address, timeout=WAIT_S) as page:
        return [*text_string_to_metric_families(page.read().decode())]


def test_servers_that_start_at_once_agree_on_the_tables(new_place: Callable[[], str]) -> None:
    place = new_place()

    def open_one(number: int) -> int:
        with closing(label_store(place, replica=str(number))) as labels:
            return len(labels.open())

    with ThreadPoolExecutor(6) as threads:
        assert [*threads.map(open_one, range(6))] == [0] * 6


def test_a_user_who_may_not_make_tables_may_use_those_that_are_there(postgresql: Postgresql) -> None:
    place = postgresql.make("granted")
    with closing(label_store(place)) as owner:
        owner.open()
    with closing(Database(place)) as database, database.transaction() as connection:
        for words in (
            "CREATE ROLE writer LOGIN",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer",
        ):
            connection.execute(text(words))
    url = make_url(place).set(username="writer")
    with closing(label_store(url.render_as_string(hide_password=False), replica="there")) as writer:
        assert writer.open() == {}


def test_a_label_is_forgotten_on_both_alike(world: World, new_place: Callable[[], str]) -> None:
    place, made = new_place(), predictions(world, 30)
    with closing(feedback_over(world, metrics_of_route(), PREDICTION_IDS, place)) as feedback:
        feedback.take([sent(each, "star") for each in made])
        with closing(label_store(place, replica="other", most_rows=20)) as labels:
            labels.open()
            forgotten = labels.prune(now=made[-1].created_at)
        again = statuses(feedback.take([sent(each, "star") for each in made]))

    assert again == ["late"] * forgotten + ["duplicate"] * (30 - forgotten)
    assert 10 <= forgotten <= 12


def test_labels_are_refused_while_the_database_is_away_and_none_is_lost_or_counted_twice(
    world: World, postgresql: Postgresql
) -> None:
    place, made, metrics = postgresql.make("away"), predictions(world, 40), metrics_of_route()
    with closing(feedback_over(world, metrics, PREDICTION_IDS, place)) as feedback:
        feedback.take([sent(each, "star") for each in made[:20]])
        before = shown(metrics.registry.collect())
        postgresql.stop()
        try:
            with pytest.raises(Unreachable) as caught:
                feedback.take([sent(each, "star") for each in made])
            assert shown(metrics.registry.collect()) == before
        finally:
            postgresql.start()
        results = feedback.take([sent(each, "star") for each in made])

    assert "send the labels again later" in str(caught.value)
    assert "socket" not in str(caught.value)
    assert statuses(results) == ["duplicate"] * 20 + ["matched"] * 20
    assert shown(metrics.registry.collect()) == pytest.approx(recounted(rows(place)))
