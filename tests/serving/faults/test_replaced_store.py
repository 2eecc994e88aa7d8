"""A store that is replaced while a server runs over it."""

from pathlib import Path

import pytest

from model_store.store import Store
from serving.client.messages import RequestFailed
from tests.serving.overload.servers import ask, same
from tests.serving.world import CONFIG, Running, World, backbone_tensors, encoded, until


@pytest.mark.parametrize("by", ["an empty folder", "a store of another backbone"])
def test_a_server_keeps_its_names_until_its_store_is_back_and_follows_it_then(
    own_world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    away = tmp_path / "away"
    with Running(own_world.settings(refresh_s=0.02)) as running, running.client() as client:
        expected = {route: ask(client, route) for route in ("lora", "best", "lora@prod")}
        own_world.folder.rename(away)
        own_world.folder.mkdir()
        if by == "a store of another backbone":
            other = Store.open(str(own_world.folder))
            other.backbones.put("tiny", CONFIG, backbone_tensors(1), "random")
        until(lambda: "is another store by now" in caplog.text)

        for route, answer in expected.items():
            same(ask(client, route), answer)
        with pytest.raises(RequestFailed, match="put the store back, or restart the server") as caught:
            ask(client, "lora@canary")
        assert caught.value.code == "UNAVAILABLE", "not NOT_FOUND: nobody knows"

        own_world.folder.rename(tmp_path / "other")
        away.rename(own_world.folder)
        own_world.store.adapters.set_alias("shapes", "lora", "prod", 2)

        second = next(own_world.resolve("lora:2").terms()).digest

        def answers() -> str:
            answer = client.classify([encoded(0)], route="lora@prod", task="shapes")
            return str(answer.adapters[0].digest)

        until(lambda: answers() == second)
    assert caplog.text.count("is another store by now") <= 3, "it is said once, not at every look"
