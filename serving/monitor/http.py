"""One question over HTTP, and what is said where there is no answer."""

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from petl_vit.errors import InvalidInput, Unreachable
from serving.address import is_local

TIMEOUT_S = 30.0
MAX_BYTES = 256 * 2**20
"""Of one answer. The largest page of metrics that was measured has 168,000 samples (docs/performance.md)."""
_SHOWN = 200  # characters of an error's page


def base_url(url: str, field: str) -> str:
    """A URL without a slash at its end; HOST:PORT is one of http.

    Raises:
        InvalidInput: It is not a URL of http or https.
    """
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(whole)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InvalidInput(
            f"{url!r} is not a URL", field=field, remedy="write http://HOST:PORT, or HOST:PORT"
        )
    return whole.rstrip("/")


class _Nowhere(HTTPRedirectHandler):
    """Follows no redirect: the headers, which may hold a password, are for the given address alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


def read(url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str]) -> bytes:
    """What a URL answers; a form is posted, and no redirect is followed.

    Raises:
        Unreachable: Nothing answers, or with an error; says which.
    """
    data = None if form is None else urlencode(form).encode()
    try:
        request = Request(url, data=data, headers=dict(headers))
        with _opener(url).open(request, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read(MAX_BYTES + 1)
    except HTTPError as error:
        with error:
            if 300 <= error.code < 400 and (place := error.headers.get("Location")):
                raise Unreachable(
                    f"{shown(url)} sends on to {shown(urljoin(url, place))}, where nothing is asked",
                    remedy="give the address that it sends on to, if that is the right one",
                ) from error
            reason = _reason(error.read(2**16)) or error.reason
        raise Unreachable(f"{shown(url)} answers {error.code}: {reason}") from error
    except (OSError, URLError, HTTPException) as error:
        cause: object = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, HTTPException):
            raise Unreachable(
                f"{shown(url)} does not answer with HTTP",
                remedy="give the port of metrics: a server's --metrics-port is 9095 by default",
            ) from error
        text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise Unreachable(f"{shown(url)} does not answer: {text.lower()}") from error
    if len(body) > MAX_BYTES:
        raise Unreachable(
            f"{shown(url)} answers with more than {MAX_BYTES // 2**20} MiB",
            remedy="check that it is a server's port of metrics, or a Prometheus",
        )
    return body


def shown(url: str) -> str:
    """A URL without a query or a password."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{port}{parts.path}"


def _opener(url: str) -> OpenerDirector:
    """What asks no proxy for a server of this machine, whatever the environment says."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    return build_opener(_Nowhere, *([ProxyHandler({})] if is_local(host) else []))


def _reason(page: bytes) -> str:
    """What Prometheus says in JSON, or the beginning of a text."""
    try:
        document: Any = json.loads(page)
    except ValueError:
        text = "".join(c if c.isprintable() else " " for c in page.decode(errors="replace"))
        return " ".join(text.split())[:_SHOWN]
    return str(document.get("error", "")) if isinstance(document, dict) else ""
