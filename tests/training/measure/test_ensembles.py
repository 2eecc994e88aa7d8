"""Ensembles beside their members and beside seeds of one method, counted by hand."""

import numpy as np
import pytest

from tests.training.measure.made import answered, logits_of, random_logits
from training.measure.ensembles import Members, choices_of, ensemble

LABELS = [0, 0, 0, 1, 1, 1]
COLUMNS = {
    "a": logits_of([0, 0, 0, 1, 0, 0], 2, [3, 3, 3, 3, 1, 1]),  # 4 of 6, unsure where it is wrong
    "b": logits_of([0, 0, 1, 0, 1, 1], 2, [3, 3, 1, 1, 3, 3]),  # 4 of 6
    "c": logits_of([1, 1, 1, 1, 1, 1], 2),  # 3 of 6
}
TRUTH = np.array(LABELS)


def test_an_ensemble_is_set_beside_its_members() -> None:
    members = Members.equal({name: COLUMNS[name] for name in ("a", "b")})
    route = answered(LABELS, COLUMNS["a"], COLUMNS["b"])
    found = ensemble("set", "both", members, route, on_first=[0.1, 0.9], seeds={})
    assert found.mean == 1
    assert (found.best, found.worst, found.mean_of_members) == pytest.approx((4 / 6, 4 / 6, 4 / 6))
    assert (found.best_member, found.selected_member) == ("a", "b")
    over = found.over_best
    assert (over.difference, over.only_a, over.only_b, over.mcnemar_p) == (pytest.approx(1 / 3), 2, 0, 0.5)
    assert found.controls == ()


def test_the_control_is_as_many_seeds_of_one_method() -> None:
    members = Members.equal({name: COLUMNS[name] for name in ("a", "b")})
    route = answered(LABELS, COLUMNS["a"], COLUMNS["b"])
    seeds = Members.equal({"s1": COLUMNS["c"], "s2": COLUMNS["c"]})
    found = ensemble("set", "both", members, route, on_first=[1, 1], seeds={"lora": seeds})
    (control,) = found.controls
    assert (control.method, control.seeds, control.size) == ("lora", ("s1", "s2"), 2)
    assert (control.mean, control.prob, control.vote, control.mean_of_members) == (0.5, 0.5, 0.5, 0.5)
    assert control.ensemble == 1
    over = control.over_control
    assert (over.difference, over.only_a, over.only_b) == (0.5, 3, 0)
    assert over.mcnemar_p == pytest.approx(2 / 2**3)


def test_more_seeds_than_members_are_chosen_in_every_way() -> None:
    members = Members.equal({name: COLUMNS[name] for name in ("a", "b")})
    route = answered(LABELS, COLUMNS["a"], COLUMNS["b"])
    seeds = Members.equal({"s1": COLUMNS["c"], "s2": COLUMNS["a"], "s3": COLUMNS["b"]})
    (control,) = ensemble("set", "both", members, route, on_first=[1, 1], seeds={"ssf": seeds}).controls
    alone = [
        answered(LABELS, COLUMNS[x], COLUMNS[y]).accuracy for x, y in (("c", "a"), ("c", "b"), ("a", "b"))
    ]
    assert control.size == 2
    assert control.mean == pytest.approx(np.mean(alone))
    assert control.over_control.mcnemar_p is None  # no image is right or wrong for all choices
    assert control.over_control.difference == pytest.approx(1 - np.mean(alone))
    assert control.mean_of_members == pytest.approx((3 + 4 + 4) / 18)


def test_fewer_seeds_than_members_bring_the_ensemble_to_their_number() -> None:
    members = Members.equal(COLUMNS)
    route = answered(LABELS, *COLUMNS.values())
    seeds = Members.equal({"s1": COLUMNS["c"], "s2": COLUMNS["c"]})
    (control,) = ensemble("set", "three", members, route, on_first=[1, 1, 1], seeds={"lora": seeds}).controls
    alone = [
        answered(LABELS, COLUMNS[x], COLUMNS[y]).accuracy for x, y in (("a", "b"), ("a", "c"), ("b", "c"))
    ]
    assert control.size == 2
    assert control.ensemble == pytest.approx(np.mean(alone))


def test_the_seeds_themselves_have_no_control_of_their_own() -> None:
    members = Members.equal({"a": COLUMNS["a"], "b": COLUMNS["b"]})
    route = answered(LABELS, COLUMNS["a"], COLUMNS["b"])
    assert ensemble("s", "seeds", members, route, on_first=[1, 1], seeds={"lora": members}).controls == ()


def test_the_largest_control_comes_first() -> None:
    columns = {
        f"m{seed}": random_logits(40, 3, seed=seed, labels=[seed % 3 for seed in range(40)])
        for seed in range(6)
    }
    labels = [seed % 3 for seed in range(40)]
    members = Members.equal({name: columns[name] for name in ("m0", "m1", "m2")})
    seeds = {
        "bitfit": Members.equal({name: columns[name] for name in ("m0", "m3")}),
        "lora": Members.equal({name: columns[name] for name in ("m3", "m4", "m5")}),
    }
    route = answered(labels, *members.columns)
    found = ensemble("s", "three", members, route, on_first=[1, 1, 1], seeds=seeds)
    assert [(one.method, one.size) for one in found.controls] == [("lora", 3), ("bitfit", 2)]


def test_choices_are_all_or_a_few_that_are_drawn_alike_every_time() -> None:
    assert choices_of(3, 2) == [(0, 1), (0, 2), (1, 2)]
    assert choices_of(4, 4) == [(0, 1, 2, 3)]
    many = choices_of(16, 8)
    assert len(many) == len(set(many)) == 100
    assert all(len(set(some)) == 8 for some in many)
    assert choices_of(16, 8) == many
    assert len(choices_of(16, 8, work=10**12)) == 5
