"""Where labels are kept: a SQLite file, or a PostgreSQL database that replicas share. Knows no labels.

A SQLite file is on a disk of this machine, and any number of its servers may share it: each transaction is
durable (WAL, synchronous=FULL) and waits for those of others.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, ProgrammingError

from petl_vit.errors import CorollaError, Corrupt, InvalidInput, Overloaded, Unreachable, near

_FIELD = "labels"
BUSY_S = 10.0
"""How long a transaction waits for those of other processes in a SQLite file."""
_CONNECT_S = 5
_STATEMENT_MS = 15_000
_FULL_RETRY_S = 30.0
_POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
_SQLITE = ("sqlite", "sqlite+pysqlite")
_SCHEMES = (*_POSTGRESQL, *_SQLITE)
_SECRETS = ("password", "sslpassword")  # among the options of a URL
_NOT_WRITABLE = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")
_LATER = "send the labels again later; the server's log says more"


class Database:
    """One database; connections are made when they are needed.

    Args:
        where: The path of a SQLite file, which is created, or a URL.

    Raises:
        InvalidInput: A URL of something else, or the driver of PostgreSQL is missing.
    """

    def __init__(self, where: str) -> None:
        self._url = _url(where)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._file: tuple[int, ...] = ()  # that is used; none yet
        self.engine: Engine = _sqlite(self._url) if self.is_sqlite else _postgresql(self._url)

    def __str__(self) -> str:
        """Without a password."""
        if self.is_sqlite:
            return str(self._url.database)
        return str(self._url.difference_update_query(_SECRETS).render_as_string(hide_password=True))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that is durable once the block ends without an error; else nothing of it is.

        Raises:
            Overloaded: The disk is full.
            InvalidInput: The URL has an option that there is not.
            Unreachable: It does not answer in time, or does not let us in, or the file is another by now.
            Corrupt: The file is damaged.
        """
        try:
            if self.is_sqlite:
                self._find(Path(str(self._url.database)))
            with self.engine.begin() as connection:
                if not self.is_sqlite:
                    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
                        connection.exec_driver_sql(f"SET LOCAL {name} = {_STATEMENT_MS}")
                yield connection
        except OSError as error:
            raise self._closed(error.strerror or str(error)) from error
        except DBAPIError as error:
            known = self._known(error)
            if known is None:
                raise
            raise known from error

    def close(self) -> None:
        """Ends the connections."""
        self.engine.dispose()

    def _find(self, path: Path) -> None:
        """Makes the file where there is none; leaves one alone that took the place of the one in use.

        Connections stay with a file that is moved away, and what they wrote would be lost with it.
        """
        if self._file and _identity(path) != self._file:
            raise Unreachable(
                f"{self} was moved away or replaced while the server used it",
                field=_FIELD,
                remedy="put it back, or restart the server",
            )
        _create(path)
        self._file = _identity(path)

    def _closed(self, problem: str) -> Unreachable:
        return Unreachable(
            f"{self} cannot be opened: {problem.lower()}",
            field=_FIELD,
            remedy="name a file that the server may create and write",
        )

    def _known(self, error: DBAPIError) -> CorollaError | None:
        """What is wrong with the database; None where it is our own mistake."""
        cause: Any = error.orig
        code = str(getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None) or "")
        if code in ("SQLITE_FULL", "53100"):
            return Overloaded(
                "the disk on which labels are kept is full, so none of these was taken",
                field=_FIELD,
                remedy="free space there or lower --label-rows, and send them again",
                retry_after_s=_FULL_RETRY_S,
            )
        if code in ("SQLITE_CORRUPT", "SQLITE_NOTADB"):
            return Corrupt(
                "the file in which labels are kept is damaged",
                field=_FIELD,
                remedy="move it away and restart the server; its log says which it is",
            )
        if code.startswith(_NOT_WRITABLE):
            return self._closed(str(cause))
        if isinstance(error, ProgrammingError) and error.statement is None:  # before any was sent
            return InvalidInput(f"the URL cannot be used: {cause}", field=_FIELD, remedy=_EXAMPLE)
        if isinstance(error, ProgrammingError) and code not in ("42501", "42P01"):
            return None
        busy = code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or code in ("55P03", "57014")
        problem = "is busy" if busy else "cannot be used"
        return Unreachable(f"the database of labels {problem}", field=_FIELD, remedy=_LATER)


def is_retried(error: CorollaError) -> bool:
    """Whether a transaction that failed so may succeed at once: another one was in its way."""
    cause: Any = getattr(error.__cause__, "orig", None)
    if getattr(error.__cause__, "connection_invalidated", False):
        return True
    return getattr(cause, "sqlstate", None) in ("40001", "40P01")


def _url(where: str) -> URL:
    scheme, mark, _ = where.partition("://")
    if not mark:
        return URL.create("sqlite", database=str(Path(where).expanduser().absolute()))
    if scheme not in _SCHEMES:
        remedy = near(scheme, _SCHEMES, most=1) or "name a file or postgresql://USER@HOST/DATABASE"
        raise InvalidInput(f"{scheme} is not a database for labels", field=_FIELD, remedy=remedy)
    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        raise InvalidInput("the URL cannot be read", field=_FIELD, remedy=_EXAMPLE) from error
    if scheme in _SQLITE:
        if not url.database or url.database == ":memory:":
            raise InvalidInput(
                "the URL names no file", field=_FIELD, remedy="labels are kept: write sqlite:////path/of.db"
            )
        if url.query:
            raise InvalidInput(
                f"the URL of a file has no options such as {next(iter(url.query))}",
                field=_FIELD,
                remedy="write sqlite:////path/of.db",
            )
        return url.set(drivername="sqlite", database=str(Path(url.database).absolute()))
    if not url.database:
        raise InvalidInput("the URL names no database", field=_FIELD, remedy=_EXAMPLE)
    return url.set(drivername="postgresql+psycopg")


_EXAMPLE = "write for example postgresql://corolla@db.example:5432/labels"


def _identity(path: Path) -> tuple[int, ...]:
    """Which file is at a path; nothing where none is."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino


def _create(path: Path) -> None:
    """Makes the file of a database, for its owner only, where there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _sqlite(url: URL) -> Engine:
    arguments = {"timeout": BUSY_S, "check_same_thread": False}
    engine: Engine = create_engine(url, connect_args=arguments, pool_size=1, max_overflow=2)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # `_begin` begins transactions
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: Connection) -> None:
    # A transaction that became a writer later could find that another is one already.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql(url: URL) -> Engine:
    defaults = {
        "connect_timeout": _CONNECT_S,
        "application_name": "corolla",
        "keepalives_idle": 30,
        "tcp_user_timeout": _STATEMENT_MS,
    }
    arguments: dict[str, Any] = {name: value for name, value in defaults.items() if name not in url.query}
    # Statements that are prepared on one connection are not known on another behind PgBouncer.
    arguments["prepare_threshold"] = None
    try:
        return create_engine(
            url, connect_args=arguments, pool_size=1, max_overflow=2, pool_pre_ping=True, pool_recycle=1800
        )
    except ImportError as error:
        raise InvalidInput(
            "PostgreSQL needs the package psycopg",
            field=_FIELD,
            remedy="pip install 'corolla[postgresql]'",
        ) from error
