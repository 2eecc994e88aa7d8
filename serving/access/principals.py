"""Principals: who may call a server, what they may do there, and how much. No torch, no gRPC.

A principal is a team or a program. It shows one of its tokens, or a client certificate. The server keeps of a
token only the SHA-256 of its secret: a secret is 256 random bits, so no slower hash protects it better.
"""

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, FiniteFloat, StringConstraints

NAME = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}"
TOKEN_ID = r"[a-z2-7]{8}"

_Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
_Rate = Annotated[FiniteFloat, Field(ge=0.01, le=1e6)]
_TaskPattern = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_*?\[\]!-]{1,100}$")]
_RoutePattern = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9_*?\[\]!-]{1,100}(/[a-z0-9_*?\[\]!-]{1,100})?$")
]
_CertificateName = Annotated[str, StringConstraints(min_length=1, max_length=255)]


class Scope(StrEnum):
    """What calls a principal may make."""

    INFER = "infer"
    FEEDBACK = "feedback"
    ADMIN = "admin"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StoredToken(_Record):
    """What a server keeps of a token.

    Attributes:
        id: Its public part, by which it is found and revoked.
        sha256: Of its secret part's characters, in hexadecimal digits.
        expires: From then on it is refused; None is never.
    """

    id: Annotated[str, StringConstraints(pattern=f"^{TOKEN_ID}$")]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: bool = False


class Principal(_Record):
    """Who calls.

    Attributes:
        tasks: Patterns of the tasks that it may use, as `birds` or `birds-*`; None is all.
        routes: Patterns of the named routes and adapters that it may ask for, as `birds/prod`, `birds/*` or
            `prod` (of any task); None is all of its tasks.
        requests_per_s, rows_per_s: What it may send in any second; a row is one image for one member.
        weight: Its share of the engine beside others, when all have work waiting.
        certificates: Names in client certificates, the common name or a subject alternative name.
    """

    name: _Name
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    tasks: Annotated[tuple[_TaskPattern, ...], Field(min_length=1)] | None = None
    routes: Annotated[tuple[_RoutePattern, ...], Field(min_length=1)] | None = None
    requests_per_s: _Rate | None = None
    rows_per_s: _Rate | None = None
    weight: Annotated[FiniteFloat, Field(ge=0.001, le=1000)] = 1.0
    certificates: tuple[_CertificateName, ...] = ()
    tokens: tuple[StoredToken, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether there may be tasks, routes or adapters that it may not use."""
        return self.tasks is not None or self.routes is not None

    def may_use_task(self, task: str) -> bool:
        """Whether any of its calls may be about a task: one where a pattern of its routes can match."""
        if self.tasks is not None and not any(fnmatchcase(task, pattern) for pattern in self.tasks):
            return False
        return self.routes is None or any(
            "/" not in pattern or fnmatchcase(task, pattern.partition("/")[0]) for pattern in self.routes
        )

    def may_use(self, task: str, name: str) -> bool:
        """Whether it may ask for a named route or an adapter of a task."""
        if not self.may_use_task(task):
            return False
        full = f"{task}/{name}"
        return self.routes is None or any(
            fnmatchcase(full if "/" in pattern else name, pattern) for pattern in self.routes
        )


ANONYMOUS = Principal(name="anonymous", scopes=tuple(Scope))
"""Whoever calls a server without principals: it may do all that the server does."""
