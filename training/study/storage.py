"""Where the trials of a sweep are kept: a storage that machines share, or a file in its folder."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import DBAPIError

from petl_vit.errors import InvalidInput

_JOURNALS = (".log", ".journal")
_NAME = "trials.db"


def opened(storage: str | None, folder: Path, *, restart: bool = False) -> optuna.storages.BaseStorage:
    """The storage of a URL, of a journal's path, or the file in a sweep's folder.

    Args:
        restart: Begin anew where the file in the folder is damaged. A storage that was named is left alone.

    Raises:
        InvalidInput: It cannot be opened; says where it is and what to do.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if storage is None:
        return _file(folder.resolve() / _NAME, restart=restart)
    if "://" not in storage and not storage.endswith(_JOURNALS):
        raise InvalidInput(
            f"{storage!r} is neither a URL nor a journal",
            field="storage",
            remedy="write for example postgresql://host/optuna, sqlite:////shared/sweep.db or "
            "/shared/sweep.log",
        )
    try:
        if "://" not in storage:
            return optuna.storages.JournalStorage(JournalFileBackend(storage))
        return _database(storage)
    except Exception as error:  # of the drivers of databases, which share no class
        raise InvalidInput(
            f"the storage cannot be opened: {_first_line(error)}",
            field="storage",
            remedy="see that it exists and is not damaged, or name another one",
        ) from error


@contextmanager
def in_use(
    storage: str | None, folder: Path, *, restart: bool = False
) -> Iterator[optuna.storages.BaseStorage]:
    """An open storage, and what is wrong where it fails while trials run: its disk is full, say.

    Args:
        storage, folder, restart: As `opened` takes them.

    Raises:
        InvalidInput: It cannot be opened, or it failed; trials that were told before are kept.
    """
    found = opened(storage, folder, restart=restart)
    try:
        yield found
    except (StorageInternalError, DBAPIError) as error:
        of_database = error.__cause__ if isinstance(error.__cause__, DBAPIError) else error
        reason = of_database.orig if isinstance(of_database, DBAPIError) else of_database
        where = "storage" if storage else f"file {folder / _NAME}"
        raise InvalidInput(
            f"the {where} of the trials failed: {_first_line(reason or error)}",
            field="storage" if storage else "runs",
            remedy="see that it has space and can be written; the same command then goes on",
        ) from error
    finally:
        closed(found)


def closed(storage: optuna.storages.BaseStorage) -> None:
    """Lets go of a storage's connections."""
    storage.remove_session()
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.engine.dispose()


def _file(path: Path, *, restart: bool) -> optuna.storages.BaseStorage:
    """The storage in a sweep's own folder."""
    problem = _damage(path)
    if problem and not restart:
        raise InvalidInput(
            f"the trials of the sweep in {path} are damaged: {problem}",
            field="runs",
            remedy="put the file back from a copy, begin anew with --restart, or give another --name",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if problem:
            for end in ("", "-journal", "-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)
        return _database(f"sqlite:///{os.fspath(path)}")
    except Exception as error:  # of SQLAlchemy, Optuna and the file system
        raise InvalidInput(
            f"the trials of the sweep in {path} cannot be opened: {_first_line(error)}",
            field="runs",
            remedy="see that the file can be written, or name another folder",
        ) from error


def _damage(path: Path) -> str:
    """Why a file is not a whole SQLite database; empty of one that is, is not there or cannot be opened."""
    if not path.exists():
        return ""
    try:
        with closing(sqlite3.connect(path, timeout=60)) as database:
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:  # opening it says so
        return ""
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == "ok" else str(found).splitlines()[0]


def _database(url: str) -> optuna.storages.BaseStorage:
    waits = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    return optuna.storages.RDBStorage(url, engine_kwargs=waits)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
