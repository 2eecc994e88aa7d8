"""The TLS sidecar of deploy/ray in a real nginx: the system's, or the one that `.ci/nginx` fetched."""

import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.serving.certificates import Certificates
from tests.waiting import WAIT_S, until

ROOT = Path(__file__).parent.parent
CONF = ROOT / "deploy" / "ray" / "nginx.conf"
FETCHED = ROOT / ".venv" / "nginx"
MISSING = "nginx is not installed, and .ci/nginx, which `make test` runs, could not fetch it"

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_TIMEOUTS = ("client_body_timeout", "send_timeout", "grpc_read_timeout", "grpc_send_timeout")


def program() -> str | None:
    """The path of nginx; None where there is none."""
    return shutil.which("nginx") or shutil.which("nginx", path=f"/usr/sbin:{FETCHED}")


class Sidecar:
    """nginx with the file of deploy/ray, in which ports and paths are this test's.

    nginx's defaults are as short as its file can say: one second for every timeout, and one connection for
    every 20 calls. What the file sets holds at `address`; at `bare`, with the same certificate and the same
    proxy behind it, the defaults hold.

    Args:
        folder: For its files and its certificates, which `ca.pem` there has signed.
        upstream: HOST:PORT of the gRPC proxy.
    """

    def __init__(self, folder: Path, upstream: str) -> None:
        folder.mkdir()
        self._folder = folder
        self.certificates = Certificates(folder)
        self.certificates.issue("server")
        self._upstream = upstream

    def __enter__(self) -> Self:
        until(self._started, every_s=0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(WAIT_S)

    def shown(self) -> str:
        """The certificate that a new connection is shown, as PEM."""
        host, _, port = self.address.partition(":")
        return ssl.get_server_certificate((host, int(port)), timeout=WAIT_S)

    def reload(self) -> None:
        """Makes it read its files again, as `nginx -s reload` does."""
        self._process.send_signal(signal.SIGHUP)

    def log(self) -> str:
        """What it has said."""
        return (self._folder / "log").read_text()

    def _started(self) -> bool:
        """Whether it accepts connections; starts it, and starts it again where another took its ports."""
        if not hasattr(self, "_process") or self._process.poll() is not None:
            self.address, self.bare = (f"127.0.0.1:{_free_port()}" for _ in range(2))
            self._configure()
            command = [str(program()), "-e", "stderr", "-p", str(self._folder), "-c", "nginx.conf"]
            directives = f"daemon off; pid {self._folder}/pid;"
            with (self._folder / "log").open("wb") as log:
                self._process = subprocess.Popen([*command, "-g", directives], stderr=log)
        try:
            for address in (self.address, self.bare):
                host, _, port = address.partition(":")
                socket.create_connection((host, int(port)), timeout=WAIT_S).close()
        except OSError:
            assert "[emerg]" not in self.log() or "Address already in use" in self.log(), self.log()
            return False
        return True

    def _configure(self) -> None:
        text = CONF.read_text()
        for ours, theirs in {
            "listen 443 ": f"listen {self.address} ",
            "/etc/corolla/tls.crt": self.certificates.path("server.pem"),
            "/etc/corolla/tls.key": self.certificates.path("server.key"),
            "127.0.0.1:9000": self._upstream,
            "http {\n": f"http {{\n{self._defaults()}",
        }.items():
            assert text.count(ours) == 1, f"{CONF} has {ours.strip()} {text.count(ours)} times"
            text = text.replace(ours, theirs)
        (self._folder / "nginx.conf").write_text(text)

    def _defaults(self) -> str:
        lines = [f"{name}_temp_path {self._folder}/{name};" for name in _TEMPORARY]
        lines += [f"{name} 1s;" for name in _TIMEOUTS]
        lines.append("keepalive_requests 20;")
        certificate = f"ssl_certificate {self.certificates.path('server.pem')};"
        key = f"ssl_certificate_key {self.certificates.path('server.key')};"
        place = f"location / {{ grpc_pass grpc://{self._upstream}; }}"
        lines.append(f"server {{ listen {self.bare} ssl http2; {certificate} {key} {place} }}")
        return "".join(f"  {line}\n" for line in lines)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
