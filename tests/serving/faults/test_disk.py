"""A server whose store is on a disk that is full, or that can only be read."""

import shutil

import pytest

from model_store.verification import verify
from serving.client.admin import AdminClient
from serving.client.labels import status_name
from serving.client.messages import RequestFailed
from tests.serving.faults.conftest import Disk
from tests.serving.overload.servers import ask, same
from tests.serving.world import Running, World, encoded


@pytest.fixture
def on_disk(world: World, disk: Disk) -> World:
    shutil.copytree(world.folder, disk.folder / "store")
    return World(disk.folder / "store")


def test_a_server_on_a_full_disk_answers_loads_and_refuses_only_what_it_would_have_to_keep(
    on_disk: World, disk: Disk
) -> None:
    settings = on_disk.settings(labels=str(disk.folder / "labels.db"))
    with Running(settings) as running, running.client() as client:
        admin, expected = AdminClient(client), ask(client, "lora")
        results = client.classify([encoded(i) for i in range(2)], route="lora", task="shapes").results
        first, second = (result.prediction_id for result in results)
        client.feedback([(first, "star")])
        disk.fill()

        same(ask(client, "lora"), expected)
        assert ask(client, "ssf"), "which is loaded from the full disk"
        with pytest.raises(RequestFailed, match=r"disk of the store is full.*corolla store gc") as caught:
            admin.set_alias("lora", "prod", 2, task="shapes")
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        with pytest.raises(RequestFailed, match="disk on which labels are kept is full") as caught:
            client.feedback([(second, "star")] * 500)
        assert caught.value.code == "RESOURCE_EXHAUSTED"
        assert on_disk.store.adapters.version_of("shapes", "lora", "prod") == 1
        assert verify(on_disk.store).whole

        disk.empty()
        admin.set_alias("lora", "prod", 2, task="shapes")
        results = client.feedback([(first, "star"), (second, "star")]).results
        assert [status_name(result) for result in results] == ["duplicate", "matched"]


def test_a_server_over_a_store_that_can_only_be_read_answers_and_says_why_nothing_moves(
    on_disk: World, disk: Disk
) -> None:
    disk.forbid_writes()
    key = str(disk.folder.parent / "prediction.key")
    with Running(on_disk.settings(prediction_key_file=key)) as running, running.client() as client:
        assert ask(client, "best")
        with pytest.raises(RequestFailed, match=r"does not allow it.*mounted read-only is served") as caught:
            AdminClient(client).set_alias("lora", "prod", 2, task="shapes")
        assert caught.value.code == "UNAVAILABLE"
        assert ask(client, "lora@prod")
