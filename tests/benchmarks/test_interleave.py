import pytest

from benchmarks.interleave import costs, cpu_seconds, speed_ratio


def test_every_variant_runs_once_in_every_round_after_the_warmup() -> None:
    calls: list[str] = []

    def variant(name: str, cost: float) -> float:
        calls.append(name)
        return cost

    taken = costs({"a": lambda: variant("a", 1.0), "b": lambda: variant("b", 2.0)}, rounds=3, warmup=1)

    assert taken == {"a": [1.0] * 3, "b": [2.0] * 3}
    assert [sorted(calls[i : i + 2]) for i in range(0, 8, 2)] == [["a", "b"]] * 4


def test_a_ratio_is_the_median_over_paired_rounds() -> None:
    taken = {"ours": [1.0, 2.0, 10.0], "plain": [2.0, 4.0, 10.0]}

    assert speed_ratio(taken, "ours", "plain") == 2.0


def test_cpu_seconds_count_work_and_not_waiting() -> None:
    taken = cpu_seconds({"work": lambda: sum(range(1_000_000)), "nothing": lambda: None}, rounds=3)

    assert min(taken["work"]) > max(taken["nothing"])


def test_progress_is_told_of_every_round() -> None:
    told: list[str] = []

    costs({"a": lambda: 1.0}, rounds=2, warmup=0, progress=told.append)

    assert told == ["round 1 of 2", "round 2 of 2"]


def test_paired_rounds_must_be_equally_many() -> None:
    with pytest.raises(ValueError, match="shorter"):
        speed_ratio({"ours": [1.0], "plain": [1.0, 1.0]}, "ours", "plain")
