"""Why a call did not arrive: what gRPC says of a connection, in words that lead on."""

import os

import grpc

from serving.address import is_local, split
from serving.client.certificate import names_in, shown_at
from serving.client.channel import Endpoint

_LOOK_S = 2.0
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables that gRPC reads, the first that is set."""
_NOT_CONNECTED = ("failed to connect to all addresses", "errors resolving", "dns resolution failed")
_ENDED = ("socket closed", "connection reset", "broken pipe", "goaway", "too many pings", "max_age")


def reason(code: grpc.StatusCode, details: str, endpoint: Endpoint) -> str:
    """What a client says of a call that no server answered; what is not understood, as gRPC says it."""
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return (
            f"{endpoint.target} does not know this call; is it a corolla server, of this version? ({details})"
        )
    text = details.lower()
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"{endpoint.target} did not answer in time; wait longer, or look whether it is reachable"
    if code is not grpc.StatusCode.UNAVAILABLE:
        return details
    if any(words in text for words in _NOT_CONNECTED):
        why = _why(text, endpoint)
        return f"no connection to {endpoint.target}: {why}" if why else details
    if any(words in text for words in _ENDED):
        return f"the connection to {endpoint.target} ended before the answer ({details}); ask again"
    return details


def unauthenticated(details: str, endpoint: Endpoint) -> str:
    """What a client says where a server does not know its caller: which token it showed, if any."""
    problem = details.partition(";")[0]  # what follows is said to clients that are not ours
    if endpoint.bearer is None:
        how = "give the client a token: token=, --token-file, COROLLA_TOKEN_FILE or COROLLA_TOKEN"
    else:
        how = f"this client shows token {endpoint.bearer.name}; get another one by `corolla tokens create`"
    return f"{endpoint.target} does not let the call in: {problem}; {how}"


def _why(text: str, endpoint: Endpoint) -> str | None:
    tls = endpoint.credentials is not None
    if "hostname verification" in text or "peer name" in text:
        return _other_name(endpoint)
    if "certificate_verify_failed" in text:
        problem = text.partition("certificate_verify_failed: ")[2].partition(":")[0] or "not trusted"
        return f"its certificate cannot be checked ({problem}); name the authority that signed it by --tls-ca"
    if "wrong_version_number" in text and tls:
        return "it speaks plain text; connect without TLS, that is without credentials or --tls-... flags"
    if "http/2" in text or "http1" in text:
        return "what listens there does not speak gRPC; give the server's --port, not its --metrics-port"
    if "socket closed" in text or "connection reset" in text or "broken pipe" in text:
        if tls:
            return "it hung up; if it asks for certificates, add --tls-certificate and --tls-key"
        return "it hung up; if it speaks TLS, add --tls-ca, or give credentials"
    if "permission denied" in text:
        return "its socket is not for this user; the server's --socket-mode says whose it is"
    if "refused" in text or "no such file" in text:
        return f"nothing listens there{_proxy(endpoint)}; is `corolla serve` running?"
    if "domain name" in text or "name or service not known" in text or "errors resolving" in text:
        return f"its name is not known{_proxy(endpoint)}; check the host"
    if "timed out" in text or "unreachable" in text or "settings frame" in text:
        return f"it does not answer{_proxy(endpoint)}; check the host, the port and the firewalls between"
    return None


def _other_name(endpoint: Endpoint) -> str:
    host, _ = split(endpoint.target)
    wanted = endpoint.server_name or host
    shown = shown_at(endpoint.target, _LOOK_S)
    names = names_in(shown) if shown else []
    if not names:
        return f"its certificate is not for {wanted}; say for whom by --tls-server-name"
    more = ", ..." if len(names) > 5 else ""
    return (
        f"its certificate is for {', '.join(names[:5])}{more}, not for {wanted}; "
        f"add --tls-server-name {names[0]} if that is the server"
    )


def _proxy(endpoint: Endpoint) -> str:
    name = next((name for name in _PROXIES if os.environ.get(name)), None)
    if name is None or is_local(endpoint.target):
        return ""
    host, _ = split(endpoint.target)
    return f" (or the proxy of {name} does not let us through: set no_proxy={host} to leave it out)"
