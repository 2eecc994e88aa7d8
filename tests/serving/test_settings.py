import os
from pathlib import Path

import pytest

from petl_vit.errors import InvalidInput
from serving import environment
from serving.settings import Settings


def test_nothing_needs_to_be_set() -> None:
    settings = Settings.read({})

    assert (settings.host, settings.port, settings.metrics_port) == ("127.0.0.1", 50051, 9095)
    assert settings.loopback


def test_a_flag_goes_before_a_variable_and_a_variable_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COROLLA_MAX_IMAGES", "7")
    monkeypatch.setenv("COROLLA_PORT", "7000")

    settings = Settings.read({"port": 8000, "max_images": None})

    assert (settings.port, settings.max_images, settings.max_batch_rows) == (8000, 7, 32)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("COROLLA_PROT", "COROLLA_PORT"),
        ("COROLLA_MAX_BATCH_ROW", "COROLLA_MAX_BATCH_ROWS"),
        ("COROLLA_DOMAIN", "COROLLA_DOMAINS"),
    ],
)
def test_a_misspelt_variable_stops_the_start_and_names_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv(name, "1")

    with pytest.raises(InvalidInput, match=f"did you mean {meant}") as caught:
        Settings.read({})
    assert caught.value.field == name


def test_the_variables_of_other_parts_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    without = Settings.read({})
    monkeypatch.setenv("COROLLA_DEBUG", "1")

    assert Settings.read({}) == without


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("port", 70000, "less than or equal to 65535"),
        ("max_images", 0, "greater than or equal to 1"),
        ("drain_s", -1.0, "greater than 0"),
        ("device", "tpu", "'auto', 'cpu' or 'cuda'"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: object, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem) as caught:
        Settings.read({name: value})

    assert caught.value.field == name
    assert repr(value) in str(caught.value)


def test_a_variable_that_is_not_a_number_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COROLLA_PORT", "http")

    with pytest.raises(InvalidInput, match="valid integer") as caught:
        Settings.read({})
    assert caught.value.field == "COROLLA_PORT"


def test_a_flag_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not permitted"):
        Settings.read({"max_imgaes": 3})


def test_domains_are_a_list_with_commas() -> None:
    assert Settings(domains=" photo, sketch,,").domain_names == ["photo", "sketch"]
    assert Settings().domain_names == []


@pytest.mark.parametrize(("host", "loopback"), [("localhost", True), ("::1", True), ("0.0.0.0", False)])
def test_it_knows_what_stays_on_this_machine(host: str, loopback: bool) -> None:
    assert Settings(host=host).loopback is loopback


LINKS = {
    "COROLLA_SERVICE_HOST": "10.43.1.39",
    "COROLLA_SERVICE_PORT": "50051",
    "COROLLA_SERVICE_PORT_GRPC": "50051",
    "COROLLA_PORT": "tcp://10.43.1.39:50051",
    "COROLLA_PORT_50051_TCP": "tcp://10.43.1.39:50051",
    "COROLLA_PORT_50051_TCP_PROTO": "tcp",
    "COROLLA_PORT_50051_TCP_PORT": "50051",
    "COROLLA_PORT_50051_TCP_ADDR": "10.43.1.39",
    "COROLLA_PORT_53_UDP": "udp://10.43.1.39:53",
    "COROLLA_METRICS_SERVICE_HOST": "10.43.1.40",
    "COROLLA_METRICS_PORT": "tcp://10.43.1.40:9095",
    "COROLLA_STORE_PORT": "tcp://10.43.1.41:9000",
    "COROLLA_STORE_PORT_9000_TCP_ADDR": "10.43.1.41",
}


def test_service_links_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    without = Settings.read({})
    for name, value in LINKS.items():
        monkeypatch.setenv(name, value)

    assert Settings.read({}) == without
    assert (Settings.read({}).port, Settings().metrics_port) == (50051, 9095)
    assert Settings.read({"port": 0}).port == 0
    assert environment.links(os.environ) == sorted(LINKS)


def test_a_port_beside_service_links_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COROLLA_PORT_50051_TCP", "tcp://10.43.1.39:50051")
    monkeypatch.setenv("COROLLA_PORT", "6000")

    assert Settings.read({}).port == 6000
    assert environment.links(os.environ) == ["COROLLA_PORT_50051_TCP"]


@pytest.mark.parametrize(
    "name", ["PORT", "METRICS_PORT", "THREADS", "ADMIN", "TLS_CERTIFICATE", "HOST", "MISSPELT"]
)
def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    without = Settings.read({})
    monkeypatch.setenv(f"COROLLA_{name}", "")

    assert Settings.read({}) == without


def test_a_host_may_stand_in_brackets_and_a_socket_leaves_the_metrics_their_port() -> None:
    assert Settings(host="[::1]").host == "::1"
    assert Settings(host="[::1]").loopback
    assert Settings(host="0.0.0.0").scraped_host == "0.0.0.0"
    behind = Settings(host="unix:/run/corolla.sock")
    assert (behind.socket, behind.scraped_host) == (Path("/run/corolla.sock"), "127.0.0.1")
    assert behind.loopback
    assert behind.takes_admin


@pytest.mark.parametrize("mode", ["rw", "888", "1777", ""])
def test_a_mode_is_written_as_for_chmod(mode: str) -> None:
    with pytest.raises(InvalidInput, match="socket_mode"):
        Settings.read({"socket_mode": mode})


def test_labels_are_kept_beside_the_key_unless_they_have_a_place_of_their_own() -> None:
    assert Settings(prediction_key_file="/keys/new.key, /keys/old.key").labels_place == "/keys/labels.db"
    assert Settings(labels="postgresql://db/labels").labels_place == "postgresql://db/labels"
    (default,) = Settings().key_files
    assert (default.name, Settings().labels_place) == ("prediction.key", str(default.parent / "labels.db"))


def test_a_replica_is_named_by_its_machine_and_port_and_anew_where_the_port_is_chosen() -> None:
    assert Settings(replica="shop-1").replica_name == "shop-1"
    named = Settings(port=50051).replica_name
    assert named.endswith(":50051")
    assert named == Settings(port=50051).replica_name
    assert Settings(host="unix:/run/corolla.sock").replica_name.endswith(":/run/corolla.sock")
    assert Settings(port=0).replica_name != Settings(port=0).replica_name


def test_a_stop_that_would_wait_for_ever_is_refused_at_the_start() -> None:
    with pytest.raises(InvalidInput, match="less than or equal to 2000000"):
        Settings.read({"drain_s": float("inf")})
