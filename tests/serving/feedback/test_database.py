"""Places for labels that can never work, and those that do not work now."""

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest

from petl_vit.errors import Corrupt, InvalidInput, Unreachable
from serving.feedback.database import Database
from tests.serving.feedback.parts import label_store


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("mysql://host/labels", "mysql is not a database for labels"),
        ("postgresqll://host/labels", "did you mean postgresql?"),
        ("postgresql://host:port/labels", "the URL cannot be read"),
        ("postgresql://host", "the URL names no database"),
        ("sqlite://", "the URL names no file"),
        ("sqlite:///:memory:", "the URL names no file"),
        ("sqlite:////labels.db?mode=ro", "no options such as mode"),
    ],
)
def test_a_url_that_can_never_work_is_refused(where: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match="labels: ") as caught:
        Database(where)
    assert problem in str(caught.value)


def test_a_password_is_never_shown() -> None:
    with closing(Database("postgres://user:secret@127.0.0.1:9/labels")) as database:
        assert str(database) == "postgresql+psycopg://user:***@127.0.0.1:9/labels"
        with pytest.raises(Unreachable, match="cannot be used") as caught, database.transaction():
            pass
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"


def test_a_password_among_the_options_of_a_url_is_never_shown() -> None:
    with closing(Database("postgresql://host/labels?user=u&password=one&sslpassword=two")) as database:
        assert str(database) == "postgresql+psycopg://host/labels?user=u"


def test_an_option_that_there_is_not_is_named() -> None:
    database = Database("postgresql://127.0.0.1:9/labels?sslmood=require")
    with closing(database), pytest.raises(InvalidInput, match="sslmood"), database.transaction():
        pass


def test_a_file_is_made_for_its_owner_only_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "labels.db"
    with closing(label_store(f"sqlite:///{path}")) as labels:
        labels.open()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unreachable, match=str(tmp_path)):
        label_store(tmp_path / "file" / "labels.db").open()


def test_a_place_that_is_no_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with closing(label_store(tmp_path)) as labels, pytest.raises(Unreachable, match=str(tmp_path)) as caught:
        labels.open()
    assert caught.value.remedy == "name a file that the server may create and write"


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    path.write_bytes(b"not a database, and long enough to look at" * 100)
    with closing(label_store(path)) as labels, pytest.raises(Corrupt, match="move it away"):
        labels.open()


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with closing(label_store(path)) as labels:
        labels.open()
        with closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE corolla_state SET value = 2 WHERE name = 'format'")
            other.commit()
        with pytest.raises(InvalidInput, match="a newer version of Corolla"):
            labels.open()
