"""What is counted of callers, where a server knows who calls."""

from collections.abc import Collection

from serving.metrics.series import Series

REFUSALS = (
    "no_credentials",
    "malformed",
    "unknown_token",
    "unknown_certificate",
    "expired",
    "revoked",
    "scope",
    "requests",
)
"""Why a call is refused for who makes it."""


class Callers:
    """Counts calls and rows by principal; there are no more of these than the file of principals has."""

    def __init__(self, series: Series) -> None:
        self._lock, self._numbers = series.lock, series.numbers

    def add(self, names: Collection[str]) -> None:
        """Shows the series of principals, and those of refused calls, at zero."""
        with self._lock:
            for reason in REFUSALS:
                self._numbers["corolla_refused_calls_total"].create((reason,))
            for name in names:
                self._numbers["corolla_principal_requests_total"].create((name, "OK"))
                self._numbers["corolla_principal_rows_total"].create((name,))

    def refused(self, reason: str) -> None:
        """One call was refused; `reason` is one of `REFUSALS`."""
        with self._lock:
            self._numbers["corolla_refused_calls_total"].add((reason,))

    def request(self, principal: str, code: str) -> None:
        """One call of a principal was answered with a gRPC status code, by its name."""
        with self._lock:
            self._numbers["corolla_principal_requests_total"].add((principal, code))

    def rows(self, principal: str, rows: int) -> None:
        """Rows that a principal was let send."""
        with self._lock:
            self._numbers["corolla_principal_rows_total"].add((principal,), rows)
