"""One question over HTTP, and what is said where there is no answer."""

import json
import ssl
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from petl_vit.errors import InvalidInput, Unreachable
from serving import pem
from serving.address import is_local
from serving.client.token import Bearer, Token

TIMEOUT_S = 30.0
MAX_BYTES = 256 * 2**20
"""Of one answer. The largest page of metrics that was measured has 168,000 samples (docs/performance.md)."""
SHOW_A_TOKEN = "give the token that it asks for: --token-file FILE"
NAME_AN_AUTHORITY = "name its authority by --tls-ca FILE; another name in it by --tls-server-name"
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
            f"{url!r} is not a URL",
            field=field,
            remedy="write http://HOST:PORT, https://HOST:PORT or HOST:PORT",
        )
    return whole.rstrip("/")


def bearer(url: str, token: Token | None, *, insecure: bool) -> Bearer | None:
    """The token that questions to a URL show, from its text or its file; None shows none.

    Raises:
        NotFound: Its file does not exist.
        InvalidInput: It is not a token, or others could read it on its way.
    """
    if token is None:
        return None
    parts = urlsplit(url)
    if parts.scheme != "https" and not insecure and not is_local(parts.netloc.rpartition("@")[2]):
        raise InvalidInput(
            f"{shown(url)} would be sent the token in plain text",
            field="token_file",
            remedy="ask by https://; on a network you trust, add --insecure",
        )
    return Bearer(token)


class Trust:
    """Whose certificates are trusted where a URL is one of https.

    Args:
        ca: PEM file of the authorities; None is those of the system.
        server_name: The name in the server's certificate; None is the URL's host.

    Raises:
        InvalidInput: The file cannot be read, or has no certificate.
    """

    def __init__(self, *, ca: Path | None = None, server_name: str | None = None) -> None:
        self.context = _Context(ssl.PROTOCOL_TLS_CLIENT)
        self.context.server_name = server_name
        if ca is None:
            self.context.load_default_certs()
        else:
            pem.authorities(ca, "tls_ca")
            self.context.load_verify_locations(ca)


class _Context(ssl.SSLContext):
    """Expects a chosen name in a server's certificate, in place of the host's."""

    server_name: str | None = None

    def wrap_socket(self, *args: Any, **others: Any) -> ssl.SSLSocket:
        name = self.server_name or others.get("server_hostname")
        return super().wrap_socket(*args, **others | {"server_hostname": name})


class _Nowhere(HTTPRedirectHandler):
    """Follows no redirect: the headers, which may hold a password, are for the given address alone."""

    def redirect_request(self, *_: Any) -> None:
        return None


def read(
    url: str,
    *,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str],
    bearer: Bearer | None = None,
    trust: Trust | None = None,
) -> bytes:
    """What a URL answers; a form is posted, and no redirect is followed.

    Args:
        bearer: The token that it is shown, if any.
        trust: Of a URL of https; None trusts the system's authorities.

    Raises:
        Unreachable: Nothing answers, or with an error; says which.
    """
    data = None if form is None else urlencode(form).encode()
    try:
        shown_too = {} if bearer is None else {"Authorization": bearer.metadata()[0][1]}
        request = Request(url, data=data, headers=dict(headers) | shown_too)
        with _opener(url, trust).open(request, timeout=TIMEOUT_S) as answer:
            body: bytes = answer.read(MAX_BYTES + 1)
    except HTTPError as error:
        with error:
            if 300 <= error.code < 400 and (place := error.headers.get("Location")):
                raise Unreachable(
                    f"{shown(url)} sends on to {shown(urljoin(url, place))}, where nothing is asked",
                    remedy="give the address that it sends on to, if that is the right one",
                ) from error
            reason = _reason(error.read(2**16)) or error.reason
        remedy = SHOW_A_TOKEN if error.code in (401, 403) else None
        if error.code == 400 and "https" in reason.lower() and not url.startswith("https:"):
            remedy = "ask by https://"
        raise Unreachable(f"{shown(url)} answers {error.code}: {reason}", remedy=remedy) from error
    except (OSError, URLError, HTTPException) as error:
        cause: object = error.reason if isinstance(error, URLError) else error
        if isinstance(cause, HTTPException):
            raise Unreachable(
                f"{shown(url)} does not answer with HTTP",
                remedy="give the port of metrics: a server's --metrics-port is 9095 by default",
            ) from error
        if isinstance(cause, ssl.SSLError):
            raise _not_over_tls(url, cause) from error
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


def _opener(url: str, trust: Trust | None) -> OpenerDirector:
    """What asks no proxy for a server of this machine, whatever the environment says."""
    host = urlsplit(url).netloc.rpartition("@")[2]
    over_tls = [] if trust is None else [HTTPSHandler(context=trust.context)]
    return build_opener(_Nowhere, *over_tls, *([ProxyHandler({})] if is_local(host) else []))


def _not_over_tls(url: str, error: ssl.SSLError) -> Unreachable:
    """What is wrong with the TLS of what answers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message.rstrip(".").lower()
        return Unreachable(
            f"{shown(url)} shows a certificate that is not trusted: {why}",
            remedy=NAME_AN_AUTHORITY,
        )
    reason = (error.reason or "it ended the handshake").replace("_", " ").lower()
    return Unreachable(
        f"{shown(url)} does not answer by TLS: {reason}", remedy="ask by http:// if its port is in plain text"
    )


def _reason(page: bytes) -> str:
    """What Prometheus says in JSON, or the beginning of a text."""
    try:
        document: Any = json.loads(page)
    except ValueError:
        text = "".join(c if c.isprintable() else " " for c in page.decode(errors="replace"))
        return " ".join(text.split())[:_SHOWN]
    return str(document.get("error", "")) if isinstance(document, dict) else ""
