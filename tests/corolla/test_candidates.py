"""Which routes an evaluation finds."""

from pathlib import Path

from corolla.candidates import Chooser
from model_store.format.records import NamedRoute
from model_store.resolution import named_route
from model_store.store import Store
from tests.model_store.resolution.test_cascades import CASCADE
from tests.model_store.world import World


def test_a_member_of_a_cascade_is_the_model_that_its_own_name_means(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    world = World(store, tmp_path / "store")
    for name in ("lora", "ssf"):
        store.adapters.publish(world.draft(name), world.adapter(1.0))
    text = "cascade(lora, ssf; loss<=0.01)"
    naming = named_route.check(store, task="digits", name="quick", text=text)
    fields = dict(naming.route) | {"cascade": CASCADE, "temperature": CASCADE.stages[-1].temperature}
    store.routes.put(NamedRoute.of(**fields))
    chooser = Chooser(
        store=store,
        task="digits",
        backbone=store.backbones.get(None).digest,
        extrapolate=False,
        note=lambda text: None,
    )
    named, quick, *members = chooser.chosen(["lora:1", "quick"], ["quick"])
    assert quick.kind == "cascade"
    assert [one.label for one in members] == ["lora:1", "ssf:1"]
    assert members[0] == named
