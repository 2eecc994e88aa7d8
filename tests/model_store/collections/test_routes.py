import pytest

from model_store.format.records import NamedRoute
from petl_vit.errors import Conflict, NotFound
from tests.model_store.world import World


def test_a_named_route_is_put_read_replaced_and_deleted(world: World) -> None:
    route = NamedRoute.of(task="digits", name="both", route="lora , ssf", temperature=1.5)
    world.store.routes.put(route)
    assert route.route == "lora, ssf"
    assert world.store.routes.get("digits", "both") == route
    other = NamedRoute.of(task="digits", name="both", route="lora")
    with pytest.raises(Conflict, match="has changed"):
        world.store.routes.put(other, expected=other)
    world.store.routes.put(other, expected=route)
    assert world.store.routes.list() == world.store.routes.list("digits") == [other]
    assert world.store.routes.list("else") == []
    with pytest.raises(NotFound, match="did you mean both"):
        world.store.routes.get("digits", "bot")
    world.store.routes.delete("digits", "both")
    with pytest.raises(NotFound, match="corolla routes put"):
        world.store.routes.delete("digits", "both")
