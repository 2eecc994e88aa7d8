"""Labels and what they count, kept together: what a transaction did not keep was not counted either.

predictions   one row for each prediction that has labels; locking it orders the replicas
labels        every label that was taken, in order
counts        what each replica shows; its sum over replicas is the fold of the labels
"""

import json
import secrets
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from petl_vit.errors import Conflict
from serving.feedback import tables
from serving.feedback.database import Database
from serving.feedback.decision import Decision
from serving.feedback.label import KeptLabel, Source
from serving.feedback.tables import COUNTS, LABELS, PREDICTIONS, REPLICAS, STATE
from serving.metrics.additions import Additions
from serving.metrics.prediction_ids import Prediction
from serving.metrics.series import Key

_DAY_S = 86_400.0
_CHUNK = 1000  # rows of one statement, predictions of one pruning
_SPARE = 0.05  # of the rows, freed at once when there are too many


class LabelStore:
    """The labels of all replicas, and the counts of this one.

    Args:
        replica: The name of this server among those that share the database.
        keep_days: Predictions that are older are forgotten with their labels.
        most_rows: Labels that are kept; beyond them the oldest predictions are forgotten.
    """

    def __init__(self, database: Database, *, replica: str, keep_days: float, most_rows: int) -> None:
        self._database, self._replica = database, replica
        self._keep_s, self._most_rows = keep_days * _DAY_S, most_rows
        self._run = secrets.token_hex(8)
        self._insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert

    def __str__(self) -> str:
        return str(self._database)

    def look(self) -> Mapping[Key, float]:
        """What was counted under the name of this replica, which may still be another server's.

        Raises:
            InvalidInput: A newer version keeps labels there.
            Overloaded, Unreachable, Corrupt: See `Database.transaction`.
        """
        with self._database.transaction() as connection:
            tables.create(connection)
            return self._counts(connection)

    def open(self) -> Mapping[Key, float]:
        """Takes the name of this replica, and returns what was counted under it.

        A server does so once it listens: one that finds its port taken leaves the name to the one that runs.

        Raises:
            InvalidInput: A newer version keeps labels there.
            Overloaded, Unreachable, Corrupt: See `Database.transaction`.
        """
        with self._database.transaction() as connection:
            tables.create(connection)
            claim = self._insert(REPLICAS).values(name=self._replica, run=self._run, seen_at=time.time())
            taken = {"run": claim.excluded.run, "seen_at": claim.excluded.seen_at}
            connection.execute(claim.on_conflict_do_update(index_elements=[REPLICAS.c.name], set_=taken))
            return self._counts(connection)

    @contextmanager
    def transaction(self) -> Iterator["LabelTransaction"]:
        """All of what is done in the block is kept, durably, or, after an error, none of it.

        Raises:
            Conflict: Another server has taken this replica's name.
            Overloaded, Unreachable, Corrupt: See `Database.transaction`.
        """
        with self._database.transaction() as connection:
            if not self._is_here(connection):
                raise Conflict(
                    f"another server counts labels as {self._replica!r}",
                    field="replica",
                    remedy="start this one with another --replica",
                )
            yield LabelTransaction(connection, self._insert, self._replica)

    def counts(self) -> Mapping[Key, float]:
        """What this replica has counted.

        Raises:
            Conflict, Overloaded, Unreachable, Corrupt: See `transaction`.
        """
        with self.transaction() as transaction:
            return self._counts(transaction.connection)

    def prune(self, now: float) -> int:
        """Forgets what is too old or too much, some of it; returns how many predictions were forgotten.

        Raises:
            Overloaded, Unreachable, Corrupt: See `Database.transaction`.
        """
        with self._database.transaction() as connection:
            self._is_here(connection)
            oldest = now - self._keep_s
            rows = connection.scalar(select(func.count()).select_from(LABELS)) or 0
            doomed = select(PREDICTIONS.c.nonce, PREDICTIONS.c.created_at).order_by(PREDICTIONS.c.created_at)
            if rows <= self._most_rows:
                doomed = doomed.where(PREDICTIONS.c.created_at < oldest)
                limit = _CHUNK
            else:
                limit = min(_CHUNK, max(1, rows - int(self._most_rows * (1 - _SPARE))))
            found = connection.execute(doomed.limit(limit).with_for_update(skip_locked=True)).all()
            if found:
                self._forget(connection, [row.nonce for row in found], max(row.created_at for row in found))
            # Servers say that they are there at least every hour.
            gone = REPLICAS.c.seen_at < now - max(self._keep_s, _DAY_S)
            names = select(REPLICAS.c.name).where(gone)
            connection.execute(delete(COUNTS).where(COUNTS.c.replica.in_(names)))
            connection.execute(delete(REPLICAS).where(gone))
        return len(found)

    def close(self) -> None:
        """Ends the connections."""
        self._database.close()

    def _is_here(self, connection: Connection) -> bool:
        """Says that this server is there; returns whether the name of the replica is still its own."""
        here = update(REPLICAS).where(REPLICAS.c.name == self._replica, REPLICAS.c.run == self._run)
        return bool(connection.execute(here.values(seen_at=time.time())).rowcount == 1)

    def _counts(self, connection: Connection) -> Mapping[Key, float]:
        rows = connection.execute(select(COUNTS).where(COUNTS.c.replica == self._replica))
        return {(row.name, tuple(json.loads(row.labels)), row.part): row.value for row in rows}

    def _forget(self, connection: Connection, nonces: Sequence[str], until: float) -> None:
        connection.execute(delete(LABELS).where(LABELS.c.nonce.in_(nonces)))
        connection.execute(delete(PREDICTIONS).where(PREDICTIONS.c.nonce.in_(nonces)))
        horizon = self._insert(STATE).values(name="horizon", value=until)
        later = STATE.c.value < horizon.excluded.value
        raised = {"value": horizon.excluded.value}
        connection.execute(
            horizon.on_conflict_do_update(index_elements=[STATE.c.name], set_=raised, where=later)
        )


class LabelTransaction:
    """What can be done with labels inside one transaction.

    Attributes:
        connection: The database's, while the transaction lasts.
    """

    def __init__(self, connection: Connection, insert_of: Any, replica: str) -> None:
        self.connection, self._insert, self._replica = connection, insert_of, replica

    def horizon(self) -> float | None:
        """Predictions up to this time may have been forgotten; None where none was."""
        value: float | None = self.connection.scalar(select(STATE.c.value).where(STATE.c.name == "horizon"))
        return value

    def lock(self, predictions: Collection[Prediction]) -> dict[str, list[KeptLabel]]:
        """The labels of predictions by nonce, in order; no other replica changes them meanwhile."""
        ordered = sorted({each.nonce: each for each in predictions}.items())  # so that none waits in a circle
        history: dict[str, list[KeptLabel]] = {nonce: [] for nonce, _ in ordered}
        for start in range(0, len(ordered), _CHUNK):
            part = ordered[start : start + _CHUNK]
            rows = [_row(each) for _, each in part]
            self.connection.execute(self._insert(PREDICTIONS).on_conflict_do_nothing(), rows)
            nonces = [nonce for nonce, _ in part]
            same = PREDICTIONS.c.nonce.in_(nonces)
            locking = select(PREDICTIONS.c.nonce).where(same).order_by(PREDICTIONS.c.nonce)
            self.connection.execute(locking.with_for_update()).all()
            kept = select(LABELS).where(LABELS.c.nonce.in_(nonces)).order_by(LABELS.c.id)
            for row in self.connection.execute(kept):
                history[row.nonce].append(
                    KeptLabel(
                        truth=tuple(json.loads(row.truth)),
                        source=Source(row.source),
                        revision=row.revision,
                        labelled_at=row.labelled_at,
                    )
                )
        return history

    def release(self, nonces: Collection[str]) -> None:
        """Takes predictions back that were locked and have no label."""
        if nonces:
            self.connection.execute(delete(PREDICTIONS).where(PREDICTIONS.c.nonce.in_([*nonces])))

    def keep(self, labels: Sequence[tuple[Prediction, KeptLabel, Decision]], now: float) -> None:
        """Keeps labels of locked predictions, in this order."""
        rows = [
            {
                "nonce": prediction.nonce,
                "source": str(label.source),
                "revision": label.revision,
                "truth": json.dumps(label.truth),
                "outcome": str(label.outcome(prediction.predicted)),
                "status": str(decision.status),
                "labelled_at": label.labelled_at,
                "received_at": now,
                "replica": self._replica,
            }
            for prediction, label, decision in labels
        ]
        if rows:
            self.connection.execute(insert(LABELS), rows)

    def count(self, additions: Additions) -> None:
        """Adds to what this replica has counted."""
        rows = [
            {
                "replica": self._replica,
                "name": name,
                "labels": json.dumps(labels, ensure_ascii=False),
                "part": part,
                "value": amount,
            }
            for (name, labels, part), amount in additions.items()
        ]
        if rows:
            adding = self._insert(COUNTS)
            more = {"value": COUNTS.c.value + adding.excluded.value}
            keys = [COUNTS.c.replica, COUNTS.c.name, COUNTS.c.labels, COUNTS.c.part]
            self.connection.execute(adding.on_conflict_do_update(index_elements=keys, set_=more), rows)


def _row(prediction: Prediction) -> dict[str, Any]:
    return {
        "nonce": prediction.nonce,
        "created_at": prediction.created_at,
        "route": prediction.route,
        "domain": prediction.domain,
        "task": prediction.task,
        "task_digest": prediction.task_digest,
        "predicted": prediction.predicted,
        "confidence": prediction.confidence,
        "inclusion": prediction.inclusion,
        "members": json.dumps(prediction.members, ensure_ascii=False),
        "votes": json.dumps(prediction.votes),
    }
