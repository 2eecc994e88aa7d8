"""Confusion matrices of the references that servers compare with."""

from collections.abc import Mapping

import pytest

from model_store.format.reference import Reference, ReferenceMember, ReferenceRoute, ReferenceTerm
from petl_vit.combine import Combine
from petl_vit.errors import Corrupt
from serving.monitor.confusion import Confusions
from tests.model_store.references import reference_of
from tests.serving.monitor.world import values


class Listed:
    """References by hand; `broken` cannot be read."""

    def __init__(self, *references: Reference) -> None:
        self.references, self.broken, self.reads = references, False, 0

    def stamps(self) -> Mapping[tuple[str, str], object]:
        return {(one.route.digest, one.data.digest): 0 for one in self.references}

    def get(self, route: str, data: str) -> Reference | None:
        self.reads += 1
        if self.broken:
            raise Corrupt("it is not JSON", field="references/x.json")
        known = {(one.route.digest, one.data.digest): one for one in self.references}
        return known.get((route, data))


def reference(route: str, data: str) -> Reference:
    """Two classes; 5 of the first are answered as the second."""
    term = ReferenceTerm(adapter="pets/lora:1", digest="c" * 64, alpha=1.0)
    of = ReferenceRoute.over(
        task="pets",
        name="lora",
        text="pets/lora:1",
        combine=Combine.MEAN,
        temperature=1.0,
        task_digest="c" * 64,
        members=(ReferenceMember(label="lora", weight=1.0, terms=(term,)),),
    )
    confusion = ((0, 0, 20), (0, 1, 5), (1, 1, 30))
    return reference_of(of, data=data).model_copy(
        update={
            "classes": ("cat", "dog"),
            "confusion": confusion,
            "route": of.model_copy(update={"digest": route}),
        }
    )


OWN = reference("d" * 64, "a" * 64)


def test_the_matrix_is_by_answer_and_truth() -> None:
    found = Confusions(Listed(reference("e" * 64, "a" * 64), OWN)).of(values())

    assert found is not None
    assert found.classes == ("cat", "dog")
    assert found.images.tolist() == [[20, 0], [5, 30]]


@pytest.mark.parametrize("other", [reference("e" * 64, "a" * 64), reference("d" * 64, "b" * 64)])
def test_that_of_another_route_or_other_images_is_not_taken(other: Reference) -> None:
    assert Confusions(Listed(other)).of(values()) is None


def test_a_store_is_read_once_for_each_reference_and_again_where_it_failed() -> None:
    listed = Listed(OWN)
    confusions = Confusions(listed)
    listed.broken = True

    assert confusions.of(values()) is None
    assert confusions.problem.startswith("the store's confusion matrix cannot be read")
    listed.broken = False
    assert confusions.of(values()) is confusions.of(values()) is not None
    assert (confusions.problem, listed.reads) == ("", 2)
