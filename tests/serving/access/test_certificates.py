"""A server's certificates are read again when they are renewed."""

import errno
import logging
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import grpc
import pytest

from petl_vit.errors import InvalidInput
from serving.access.certificates import ServerCertificates
from serving.client.blocking import Client
from serving.client.credentials import credentials
from tests.serving.access.listening import Listening
from tests.serving.certificates import Certificates
from tests.serving.world import WAIT_S

FRESH = [("grpc.use_local_subchannel_pool", 1)]
"""A client's connection is its own, so that each client shakes hands."""


@pytest.fixture
def renewed(tmp_path: Path) -> Certificates:
    """Certificates by another authority."""
    (tmp_path / "renewed").mkdir()
    made = Certificates(tmp_path / "renewed")
    made.issue("server")
    made.issue("client")
    return made


def serves(address: str, chosen: grpc.ChannelCredentials) -> bool:
    with Client(address, credentials=chosen, options=FRESH, timeout_s=WAIT_S) as client:
        return client.serving()


def put(source: Certificates, target: Certificates, *names: str) -> None:
    for name in names:
        shutil.copyfile(source.path(name), target.path(name))


def test_new_connections_get_a_renewed_certificate_and_old_ones_go_on(
    certificates: Certificates, renewed: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = (grpc.ssl_channel_credentials(each.read("ca.pem")) for each in (certificates, renewed))
    chosen = {"tls_certificate": certificates.path("server.pem"), "tls_key": certificates.path("server.key")}
    caplog.set_level(logging.INFO)
    with (
        Listening(**chosen) as server,
        Client(server.address, credentials=old, options=FRESH, timeout_s=WAIT_S) as before,
    ):
        assert before.serving()
        assert not serves(server.address, new)

        put(renewed, certificates, "server.pem")  # the key has not come yet
        assert serves(server.address, old)
        assert "the one before goes on" in caplog.text
        put(renewed, certificates, "server.key")

        assert serves(server.address, new)
        assert not serves(server.address, old)
        assert before.serving()
    assert caplog.text.count("renewed certificate") == 1


def test_the_authority_of_clients_is_renewed_too(certificates: Certificates, renewed: Certificates) -> None:
    chosen = {
        "tls_certificate": certificates.path("server.pem"),
        "tls_key": certificates.path("server.key"),
        "tls_client_ca": certificates.path("ca.pem"),
    }
    ca = Path(certificates.path("trusted.pem"))
    shutil.copyfile(certificates.path("ca.pem"), ca)
    first, second = (
        credentials(ca=ca, certificate=Path(each.path("client.pem")), key=Path(each.path("client.key")))
        for each in (certificates, renewed)
    )
    with Listening(**chosen) as server:
        assert serves(server.address, first)
        assert not serves(server.address, second)
        assert not serves(server.address, credentials(ca=ca))
        put(renewed, certificates, "ca.pem")
        assert serves(server.address, second)
        assert not serves(server.address, first)


def test_a_folder_whose_link_is_replaced_is_seen_as_kubernetes_does_it(
    certificates: Certificates, renewed: Certificates, tmp_path: Path
) -> None:
    live = tmp_path / "live"
    live.symlink_to(certificates.folder)
    watched = ServerCertificates(
        certificate=str(live / "server.pem"), key=str(live / "server.key"), client_ca=None
    )
    assert watched.changed() is None
    (tmp_path / "next").symlink_to(renewed.folder)
    os.replace(tmp_path / "next", live)

    assert watched.changed() is not None
    assert watched.changed() is None


def test_a_renewal_that_could_not_be_read_is_read_the_next_time(
    certificates: Certificates, renewed: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = certificates.path("server.pem"), certificates.path("server.key")
    watched = ServerCertificates(certificate=paths[0], key=paths[1], client_ca=None)
    put(renewed, certificates, "server.pem", "server.key")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        assert watched.changed() is None
    assert watched.changed() is not None


def test_files_that_are_gone_change_nothing(certificates: Certificates) -> None:
    paths = certificates.path("server.pem"), certificates.path("server.key")
    watched = ServerCertificates(certificate=paths[0], key=paths[1], client_ca=None)
    os.remove(paths[1])

    assert watched.changed() is None
    with pytest.raises(InvalidInput, match="No such file"):
        ServerCertificates(certificate=paths[0], key=paths[1], client_ca=None)
