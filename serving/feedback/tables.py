"""The tables that labels are kept in; docs/serving.md shows how to read them with SQL."""

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Identity,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from petl_vit.errors import InvalidInput

FORMAT = 1
"""Counts up when the tables change; an older server refuses to write to newer ones."""

_TABLES = MetaData()

PREDICTIONS = Table(
    "corolla_predictions",
    _TABLES,
    Column("nonce", String(32), primary_key=True),
    Column("created_at", Double, nullable=False, index=True),
    Column("route", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("task_digest", Text, nullable=False),
    Column("predicted", Integer, nullable=False),
    Column("confidence", Double, nullable=False),
    Column("inclusion", Double),
    Column("members", Text, nullable=False),
    Column("votes", Text, nullable=False),
)
"""Those that have labels. `members` and `votes` are JSON lists in the order of the route's members;
`inclusion` is the probability with which the label was requested."""

LABELS = Table(
    "corolla_labels",
    _TABLES,
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), Identity(), primary_key=True, autoincrement=True
    ),
    Column("nonce", String(32), nullable=False, index=True),
    Column("source", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("truth", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("labelled_at", Double),
    Column("received_at", Double, nullable=False),
    Column("replica", Text, nullable=False),
)
"""In the order in which they were decided on; `truth` is a JSON list of class indices, empty for unknown."""

COUNTS = Table(
    "corolla_counts",
    _TABLES,
    Column("replica", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("labels", Text, primary_key=True),
    Column("part", Text, primary_key=True),
    Column("value", Double, nullable=False),
)
"""What each replica shows of labels: `labels` is a JSON list, `part` that of a histogram, else empty."""

REPLICAS = Table(
    "corolla_replicas",
    _TABLES,
    Column("name", Text, primary_key=True),
    Column("run", Text, nullable=False),
    Column("seen_at", Double, nullable=False),
)
"""`run` is one start of a server: the latest that took the name has it."""

STATE = Table("corolla_state", _TABLES, Column("name", Text, primary_key=True), Column("value", Double))
"""`format`, and `horizon`: predictions up to this time without a row may have had labels."""

_LOCK = 0x636F726F6C6C61  # of this schema's creation, among the advisory locks of PostgreSQL


def create(connection: Connection) -> None:
    """Makes the tables where there are none; servers that start at once do so one after the other.

    Where they are, the right to make tables is not needed.

    Raises:
        InvalidInput: A newer version of Corolla made them.
    """
    found = _format(connection) if inspect(connection).has_table(STATE.name) else None
    if found is None:
        _make(connection)
    elif found > FORMAT:
        raise InvalidInput(
            f"a newer version of Corolla keeps labels there (format {found:g}, this one knows {FORMAT})",
            field="labels",
            remedy="update this server, or name another place",
        )


def _make(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    for table in _TABLES.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))
    if _format(connection) is None:
        connection.execute(insert(STATE).values(name="format", value=FORMAT))


def _format(connection: Connection) -> float | None:
    found: float | None = connection.scalar(select(STATE.c.value).where(STATE.c.name == "format"))
    return found
