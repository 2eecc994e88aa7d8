"""Limits: how many requests and rows a principal may send in a second."""

import pytest

from petl_vit.errors import Overloaded
from serving.access.limits import Limits
from serving.access.principals import Principal


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> Limits:
    return Limits(clock)


def principal(name: str = "team", **fields: float) -> Principal:
    return Principal(name=name, scopes=("infer",), **fields)


def refused(limits: Limits, principal: Principal, rows: int = 0) -> Overloaded:
    with pytest.raises(Overloaded) as caught:
        limits.take_rows(principal, rows) if rows else limits.take_request(principal)
    return caught.value


def test_requests_beyond_the_rate_are_refused_until_the_oldest_is_a_second_old(
    limits: Limits, clock: Clock
) -> None:
    team = principal(requests_per_s=2)
    limits.take_request(team)
    clock.now += 0.25
    limits.take_request(team)
    error = refused(limits, team)
    assert error.retry_after_s == pytest.approx(0.75)
    assert "team may send 2 requests in a second" in str(error)
    clock.now += 0.75
    limits.take_request(team)
    refused(limits, team)


def test_a_rate_below_one_counts_over_more_seconds(limits: Limits, clock: Clock) -> None:
    team = principal(requests_per_s=0.25)
    limits.take_request(team)
    clock.now += 3.9
    assert refused(limits, team).retry_after_s == pytest.approx(0.1)
    clock.now += 0.1
    limits.take_request(team)


def test_rows_are_counted_together_and_a_refused_request_counts_nothing(limits: Limits, clock: Clock) -> None:
    team = principal(rows_per_s=100)
    limits.take_rows(team, 60)
    refused(limits, team, rows=41)
    limits.take_rows(team, 40)
    clock.now += 1
    limits.take_rows(team, 100)


def test_more_rows_at_once_than_the_rate_can_never_be_sent_and_the_error_says_so(limits: Limits) -> None:
    error = refused(limits, principal(rows_per_s=10), rows=11)
    assert error.retry_after_s is None
    assert "send fewer images or members in one request" in str(error)


def test_rows_that_follow_are_counted_and_never_refused(limits: Limits, clock: Clock) -> None:
    team = principal(rows_per_s=10)
    limits.take_rows(team, 6)
    limits.add_rows(team, 3)
    refused(limits, team, rows=2)
    limits.add_rows(team, 51)
    assert refused(limits, team, rows=1).retry_after_s == pytest.approx(6)
    clock.now += 5.9
    refused(limits, team, rows=1)
    clock.now += 0.2
    limits.take_rows(team, 10)


def test_rows_that_follow_do_not_raise_the_rate(limits: Limits, clock: Clock) -> None:
    team, sent, began = principal(rows_per_s=10), 0, clock.now
    while clock.now < began + 100:
        try:
            limits.take_rows(team, 4)
        except Overloaded as error:
            clock.now += (error.retry_after_s or 0) + 1e-6
        else:
            for rows in (9, 16):
                clock.now += 0.01
                limits.add_rows(team, rows)
            sent += 29
    assert 10 * 80 < sent < 10 * 102 + 29


def test_principals_do_not_count_for_each_other_and_those_without_limits_not_at_all(limits: Limits) -> None:
    one, other = principal(requests_per_s=1), principal("other", requests_per_s=1)
    limits.take_request(one)
    limits.take_request(other)
    refused(limits, one)
    for _ in range(100):
        limits.take_request(principal("free"))
        limits.take_rows(principal("free"), 10_000)


def test_a_principal_that_is_gone_is_forgotten_and_others_are_not(limits: Limits) -> None:
    one, other = principal(requests_per_s=1), principal("other", requests_per_s=1)
    limits.take_request(one)
    limits.take_request(other)
    limits.keep(["other"])
    limits.take_request(one)
    refused(limits, other)
