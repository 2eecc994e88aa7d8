import pytest

from petl_vit.errors import InvalidInput
from serving.metrics.label_values import MAX_MEMBERS, Domains, RouteLabels, consensus, member_labels


def test_domains_are_an_allow_list() -> None:
    domains = Domains(["clinic-a", "clinic-a"])

    assert domains.names == ("clinic-a", "other", "unset")
    assert [domains.label(text) for text in ("clinic-a", "clinic-z", "", "unset")] == [
        "clinic-a",
        "other",
        "unset",
        "unset",
    ]


@pytest.mark.parametrize("names", [["Clinic A"], [""], [f"d{index}" for index in range(17)]])
def test_wrong_domains_are_refused(names: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        Domains(names)
    assert caught.value.field == "domains"


@pytest.mark.parametrize(
    ("votes", "shape"),
    [
        ([1], "unanimous"),
        ([1, 1], "unanimous"),
        ([1, 1, 2], "majority"),
        ([1, 1, 2, 3], "plurality"),
        ([1, 2], "tie"),
        ([1, 1, 2, 2, 3], "tie"),
        ([1, 2, 3], "tie"),
    ],
)
def test_a_vote_has_a_shape(votes: list[int], shape: str) -> None:
    assert consensus(votes) == shape


def test_members_of_one_name_are_told_apart_and_too_many_have_no_label() -> None:
    assert member_labels(["lora", "ssf", "lora"]) == ("lora", "ssf", "lora#2")
    assert member_labels(["lora"] * (MAX_MEMBERS + 1)) == ()


def test_a_pair_is_named_in_one_order_whatever_that_of_the_members() -> None:
    labels = RouteLabels.of("all", "unset", ["ssf", "lora"])

    assert labels.pairs == ((0, 1, ("all", "unset", "lora:ssf")),)
