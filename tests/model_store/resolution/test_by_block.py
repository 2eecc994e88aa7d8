"""Alphas by block in resolved routes, named routes and references. The backbone has 12 blocks."""

import pytest

from model_store.format.records import NamedRoute
from model_store.format.reference import Reference
from model_store.resolution import named_route
from model_store.resolution.answering import answering
from model_store.resolution.loading import member_key
from model_store.resolution.reference import of_named, route_of
from model_store.resolution.versions import ResolvedRoute, resolve
from model_store.routes.text import parse_route
from petl_vit.errors import InvalidInput
from tests.model_store.references import reference_of, usable_reference
from tests.model_store.world import World


@pytest.fixture
def world(world: World) -> World:
    """`lora:1`, and `prompts:1` of VPT-Shallow."""
    world.store.adapters.publish(world.draft(), world.adapter(1.0))
    prompts = world.draft("prompts").model_copy(update={"method": "vpt_shallow", "config": {}})
    world.store.adapters.publish(prompts, world.adapter(2.0))
    return world


def resolved(world: World, text: str) -> ResolvedRoute:
    digest = world.backbone.digest
    return resolve(parse_route(text), task="digits", store=world.store, backbone_digest=digest)


def put(world: World, text: str) -> NamedRoute:
    naming = named_route.check(world.store, task="digits", name="live", text=text)
    world.store.routes.put(naming.route)
    return naming.route


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("0.6[0-11]*lora", "0.6*lora:1"),
        ("1[0-11]*lora", "lora:1"),
        ("0[3-5]*lora", "0*lora:1"),
        ("0.2..1[0-11]*lora", "0.2..1*lora:1"),
        ("0.3[0-5]*lora + 0.9[6-11]*lora", "0.3[0-5]*lora:1 + 0.9[6-11]*lora:1"),
        ("0.6[0-11]*prompts", "0.6*prompts:1"),
    ],
)
def test_an_alpha_over_all_blocks_is_a_plain_one(world: World, text: str, canonical: str) -> None:
    route = resolved(world, text)
    assert str(route) == canonical
    assert member_key(route.members[0]) == member_key(resolved(world, canonical).members[0])


def test_a_members_label_has_its_alphas_and_no_versions(world: World) -> None:
    (member,) = resolved(world, "0.3[0-5]*lora + 0.2..1*lora").members
    assert member.name == "0.3[0-5]*lora+0.2..1*lora"
    assert [term.label for term in member.adapters] == ["lora:1"]


def test_blocks_beyond_the_backbone_are_refused_with_its_depth(world: World) -> None:
    with pytest.raises(InvalidInput) as error:
        resolved(world, "0.6[6-12]*lora")
    assert error.value.field == "blocks"
    assert error.value.problem == ("0.6[6-12]*lora:1 names block 12, and backbone tiny.one has 12 blocks")


def test_what_passes_through_all_blocks_is_refused_by_name_when_it_is_put(world: World) -> None:
    with pytest.raises(InvalidInput, match=r"prompts:1 \(vpt_shallow\) pass through all blocks"):
        put(world, "0.2..1*prompts")


def test_a_named_route_keeps_its_alphas_by_block_at_rest(world: World) -> None:
    put(world, "0.3[0-5]*lora + 0.2..1*lora, base")
    stored = world.store.routes.get("digits", "live")
    assert stored.route == "0.3[0-5]*lora:1 + 0.2..1*lora:1, base"
    assert [version.adapter for version in stored.versions] == [
        "digits/lora:1",
        "digits/lora:1",
        "digits/base",
    ]
    assert NamedRoute.parse(stored.encode(), "key") == stored
    assert str(answering(world.store, stored).resolved) == stored.route


@pytest.mark.parametrize("follow", [False, True])
def test_a_named_route_is_stored_without_what_says_nothing(world: World, follow: bool) -> None:
    text = "0.6[0-11]*lora + 0.2..1[0-11]*lora"
    naming = named_route.check(world.store, task="digits", name="live", text=text, follow=follow)
    version = "" if follow else ":1"
    assert naming.route.route == f"0.6*lora{version} + 0.2..1*lora{version}"


def test_a_reference_belongs_to_exact_alphas_by_block(world: World) -> None:
    now = route_of(named := put(world, "0.2..1*lora"), answering(world.store, named))
    (term,) = now.members[0].terms
    assert term.alpha == pytest.approx([0.2 + 0.8 * block / 11 for block in range(12)])
    reference = reference_of(now)
    world.store.references.put(reference)
    assert Reference.parse(reference.encode(), "key") == reference
    assert of_named(world.store, named).stale == ""
    assert "it was 0.2..1*lora:1, now 0.3..1*lora:1" in of_named(world.store, put(world, "0.3..1*lora")).stale


def test_references_of_one_alpha_keep_their_digest() -> None:
    route = usable_reference("lora", "ssf").route
    assert route.digest == "f1b249ee61a5cba0c53321063059aa737f2e8db21fa85653d0511fb760e94c2c"


def test_the_same_alpha_in_all_blocks_has_the_same_reference(world: World) -> None:
    each = [put(world, text) for text in ("0.6*lora", "0.6[0-11]*lora")]
    first, second = (route_of(named, answering(world.store, named)) for named in each)
    assert first == second
