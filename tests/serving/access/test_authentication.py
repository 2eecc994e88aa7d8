"""Authentication: who shows a token or a certificate, and what is said to whoever does not."""

from pathlib import Path

import pytest

from petl_vit.errors import Forbidden, Unauthenticated
from serving.access.authentication import Access
from serving.access.principals import Scope
from tests.serving.access.callers import NOW, Callers, expired


@pytest.fixture
def callers(tmp_path: Path) -> Callers:
    callers = Callers(tmp_path / "principals.json")
    callers.add("team", certificates=("team.example", "team"))
    callers.add("late", token=expired())
    callers.add("gone", token={"revoked": True})
    callers.write()
    return callers


@pytest.fixture
def access(callers: Callers) -> Access:
    return Access(callers.path, clock=NOW.timestamp)


def refused(access: Access, header: str | bytes) -> Unauthenticated:
    with pytest.raises(Unauthenticated) as caught:
        access.by_header(header)
    return caught.value


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_a_token_is_its_principals(access: Access, callers: Callers, scheme: str) -> None:
    assert access.by_header(f"{scheme} {callers.tokens['team']}").principal.name == "team"


@pytest.mark.parametrize(
    ("name", "reason", "says"),
    [("late", "expired", "expired .2026-05-03"), ("gone", "revoked", "was revoked")],
)
def test_the_owner_of_an_ended_token_is_told_why(
    access: Access, callers: Callers, name: str, reason: str, says: str
) -> None:
    error = refused(access, f"Bearer {callers.tokens[name]}")
    assert error.reason == reason
    with pytest.raises(Unauthenticated, match=says):
        raise error


def test_others_are_not_told_which_ids_there_are(access: Access, callers: Callers) -> None:
    token = callers.tokens["gone"]
    unknown, wrong = f"cor_aaaaaaaa_{token[-43:]}", f"{token[:-43]}{'x' * 43}"
    errors = [refused(access, f"Bearer {each}") for each in (unknown, wrong)]
    assert {(error.reason, str(error)) for error in errors} == {("unknown_token", str(errors[0]))}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic dTpw", "s3cr3t", "Bearer s3cr3t", b"\xff s3cr3t"]
)
def test_what_is_not_a_token_is_refused_and_not_repeated(access: Access, header: str | bytes) -> None:
    error = refused(access, header)
    assert error.reason == "malformed"
    assert "s3cr3t" not in str(error)
    assert "corolla tokens create" in str(error)


def test_a_certificate_is_the_principals_that_any_of_its_names_is(access: Access) -> None:
    assert access.by_certificate(["unknown", "team.example"]).principal.name == "team"
    for names in ([], ["unknown"], ["x" * 10_000] * 100):
        with pytest.raises(Unauthenticated, match="is not a principal's") as caught:
            access.by_certificate(names)
        assert caught.value.reason == "unknown_certificate"
        assert len(str(caught.value)) < 1000


def test_rotation_and_revocation_need_no_restart(access: Access, callers: Callers) -> None:
    old = callers.tokens["team"]
    under_way = access.by_header(f"Bearer {old}")
    callers.add("team")
    new = callers.tokens["team"]
    callers.write()
    assert access.follow()
    assert not access.follow()
    assert access.by_header(f"Bearer {new}").principal.name == "team"
    assert refused(access, f"Bearer {old}").reason == "unknown_token"
    with pytest.raises(Unauthenticated, match="was revoked"):
        under_way.take_request()


def test_a_scope_that_is_taken_away_ends_a_call_under_way(access: Access, callers: Callers) -> None:
    under_way = access.by_certificate(["team"])
    with pytest.raises(Forbidden, match="team does not have the scope admin"):
        under_way.need(Scope.ADMIN)
    under_way.need(Scope.INFER)
    under_way.take_request()
    callers.change("team", scopes=("feedback",))
    access.follow()
    with pytest.raises(Forbidden, match="team does not have the scope infer"):
        under_way.take_request()


def test_a_call_under_way_has_the_rights_of_now(access: Access, callers: Callers) -> None:
    under_way = access.by_header(f"Bearer {callers.tokens['team']}")
    callers.change("team", tasks=("birds",))
    access.follow()
    under_way.take_request()
    assert under_way.principal.tasks == ("birds",)
