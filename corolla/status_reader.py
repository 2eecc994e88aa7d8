"""What a server or `corolla monitor` says at this moment, over HTTP. No torch, no gRPC."""

from typing import Final

from pydantic import ValidationError

from petl_vit.errors import Corrupt, Unreachable
from serving.client.token import Token
from serving.monitor import http
from serving.monitor.status import Status

SERVER: Final = "127.0.0.1:9095"
MONITOR: Final = "127.0.0.1:9096"
_PATH: Final = "/status.json"
_WHERE: Final = "name the metrics port of `corolla serve` (9095) or the port of `corolla monitor` (9096)"


class StatusReader:
    """Reads the status at one address.

    Args:
        address: HOST:PORT or a URL.
        token: The bearer token that it is shown, or the path of its file; None shows none.
        insecure: Send it in plain text to another machine, too.
        trust: Of a URL of https; None trusts the system's authorities.

    Raises:
        NotFound: The token's file does not exist.
        InvalidInput: The address is neither, or the token is not one or could be read by others.
    """

    def __init__(
        self,
        address: str,
        *,
        token: Token | None = None,
        insecure: bool = False,
        trust: http.Trust | None = None,
    ) -> None:
        base = http.base_url(address, "address").removesuffix(_PATH)
        self.address = http.shown(base)
        self._url = f"{base}{_PATH}"
        self._bearer, self._trust = http.bearer(base, token, insecure=insecure), trust

    def read(self) -> Status:
        """The status now.

        Raises:
            Unreachable: Nothing answers, or with an error.
            Corrupt: What answers has no status, or not one of this version.
        """
        try:
            accept = {"Accept": "application/json"}
            body = http.read(self._url, headers=accept, bearer=self._bearer, trust=self._trust)
        except Unreachable as error:
            raise Unreachable(error.problem, remedy=error.remedy or _WHERE) from error
        try:
            return Status.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == "json_invalid" or not first["loc"]:
                raise Corrupt(f"{self.address} answers, but not with a status", remedy=_WHERE) from error
            place = ".".join(map(str, first["loc"]))
            problem = f"the status of {self.address} cannot be read: {place}: {first['msg'].lower()}"
            raise Corrupt(problem, remedy="use a corolla of the server's version") from error


def nearest(*, token: Token | None = None, trust: http.Trust | None = None) -> StatusReader:
    """That of this machine: `corolla monitor` where it answers, else a server, in plain text or by https.

    Raises:
        Unreachable: Neither answers, or one does that asks for a token or shows an untrusted certificate.
    """
    refusal: Unreachable | None = None
    for address in (MONITOR, SERVER, f"https://{SERVER}"):
        reader = StatusReader(address, token=token, trust=trust)
        try:
            reader.read()
        except Corrupt:
            continue
        except Unreachable as error:
            refusal = error if error.remedy in (http.SHOW_A_TOKEN, http.NAME_AN_AUTHORITY) else refusal
            continue
        return reader
    raise refusal or Unreachable(
        f"neither {MONITOR} nor {SERVER} has a status",
        remedy="start `corolla serve` or `corolla monitor`, or name one: corolla watch HOST:PORT",
    )
