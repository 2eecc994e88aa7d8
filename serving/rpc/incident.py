"""An unexpected error: logged in full under an id, which is all that its caller is told."""

import logging
import uuid

_log = logging.getLogger(__name__)


def report(error: BaseException, *, method: str, program: str = "server") -> str:
    """Logs an error and returns what to tell the caller.

    Args:
        method: What was called, for the log.
        program: Whose log it is in.
    """
    incident = uuid.uuid4().hex[:12]
    _log.error("incident %s in %s", incident, method, exc_info=error)
    return f"an unexpected error; the {program}'s log has it as incident {incident}"
