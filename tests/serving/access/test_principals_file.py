"""The file of principals: written for its owner alone, followed when it changes, refused when it is odd."""

import errno
import json
import logging
from pathlib import Path
from unittest.mock import Mock

import pytest

from petl_vit.errors import InvalidInput
from serving.access.principals_file import Principals, PrincipalsFile
from tests.serving.access.callers import Callers, broken


@pytest.fixture
def callers(tmp_path: Path) -> Callers:
    callers = Callers(tmp_path / "principals.json")
    callers.add("team")
    callers.write()
    return callers


def test_it_is_for_its_owner_alone_and_says_what_was_written(callers: Callers) -> None:
    assert callers.path.stat().st_mode & 0o777 == 0o600
    assert callers.tokens["team"].rpartition("_")[2] not in callers.path.read_text()
    (principal,) = Principals.read(callers.path).principals
    assert (principal.name, len(principal.tokens)) == ("team", 1)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_one_that_others_may_write_is_refused_and_the_remedy_named(callers: Callers, mode: int) -> None:
    callers.path.chmod(mode)
    with pytest.raises(InvalidInput, match=f"others may write.*chmod go-w {callers.path}"):
        PrincipalsFile(callers.path)


def test_one_that_others_may_read_is_not_refused(callers: Callers) -> None:
    callers.path.chmod(0o644)
    assert PrincipalsFile(callers.path).principals


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON .line 1"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "the document"),
        ('{"format_version": 2}', "format_version"),
        ('{"principles": []}', "principles"),
        ('{"principals": [{"name": "a"}]}', "principals.0.scopes.*; correct it there"),
        ('{"principals": [], "principals": []}', "'principals' is there 2 times in one object; keep one"),
        (
            '{"principals": [{"name": "a", "scopes": ["infer"], "scopes": ["admin"]}]}',
            "'scopes' is there 2 times",
        ),
        ('{"principals": [{"name": "a b", "scopes": ["infer"]}]}', r"\[A-Za-z0-9\]"),
        ('{"principals": [{"name": "anonymous", "scopes": ["infer"]}]}', "without a token"),
        ('{"principals": [{"name": "a", "scopes": ["infer"], "secret": "s3cr3t"}]}', "principals.0.secret"),
    ],
)
def test_what_it_cannot_say_is_refused_and_not_repeated(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "principals.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(InvalidInput, match=says) as caught:
        Principals.read(path)
    assert caught.value.field == "principals"
    assert str(path) in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_bytes_that_are_not_text_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="is not JSON"):
        Principals.read(tmp_path / "bytes")
    with pytest.raises(InvalidInput, match="cannot be read"):
        Principals.read(tmp_path)
    with pytest.raises(InvalidInput, match="corolla tokens create"):
        Principals.read(tmp_path / "missing")


@pytest.mark.parametrize("shared", ["name", "token", "certificate"])
def test_what_two_principals_share_is_refused(callers: Callers, shared: str) -> None:
    document = json.loads(callers.path.read_text())
    first = document["principals"][0] | {"certificates": ["ours"]}
    second = first | {"name": "other", "tokens": [], "certificates": []}
    second |= {"name": {"name": "team"}, "token": {"tokens": first["tokens"]}}.get(
        shared, {"certificates": ["ours"]}
    )
    callers.path.write_text(json.dumps(document | {"principals": [first, second]}))
    with pytest.raises(InvalidInput, match="is there 2 times"):
        Principals.read(callers.path)


def test_a_change_is_followed_and_a_damaged_one_is_not(
    callers: Callers, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watched = PrincipalsFile(callers.path)
    assert watched.changed() is None

    callers.change("team", rows_per_s=5)
    assert [principal.rows_per_s for principal in watched.changed() or ()] == [5]
    assert watched.changed() is None

    good = callers.path.read_text()
    broken(callers.path, good[:40])
    assert watched.changed() is None
    assert watched.changed() is None
    assert caplog.text.count("are not used, those before stay") == 1

    callers.path.unlink()
    assert watched.changed() is None
    assert [principal.rows_per_s for principal in watched.principals] == [5]

    callers.change("team", rows_per_s=6)
    assert [principal.rows_per_s for principal in watched.changed() or ()] == [6]


def test_a_change_that_could_not_be_read_is_read_the_next_time(
    callers: Callers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = PrincipalsFile(callers.path)
    callers.change("team", rows_per_s=5)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        assert watched.changed() is None
        assert watched.changed() is None
    assert [principal.rows_per_s for principal in watched.changed() or ()] == [5]
    assert caplog.text.count("too many open files") == 1


def test_rights_that_open_to_others_later_are_not_used(callers: Callers) -> None:
    watched = PrincipalsFile(callers.path)
    callers.change("team", scopes=("admin",))
    callers.path.chmod(0o666)
    assert watched.changed() is None
    assert [str(scope) for scope in watched.principals[0].scopes] == ["infer"]
