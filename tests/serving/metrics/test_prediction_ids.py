import dataclasses
import multiprocessing
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petl_vit.errors import InvalidInput
from serving.metrics.prediction_ids import (
    KEY_BYTES,
    MAX_LENGTH,
    Prediction,
    PredictionIds,
    key_from,
)

KEY = bytes(range(KEY_BYTES))
PREDICTION = Prediction(
    route="all",
    domain="clinic-a",
    task="digits",
    task_digest="0123456789abcdef" * 4,
    predicted=3,
    votes=(3, 3, 5),
    members=("lora", "ssf", "bitfit"),
    confidence=0.8712345678,
    created_at=1_790_000_000.123456,
    nonce="00112233aabbccdd",
)
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,62}", fullmatch=True)
PREDICTIONS = st.builds(
    Prediction,
    route=NAMES,
    domain=NAMES,
    task=NAMES,
    task_digest=st.text("0123456789abcdef", min_size=64, max_size=64),
    predicted=st.integers(0, 100_000),
    votes=st.lists(st.integers(0, 100_000), min_size=1, max_size=16).map(tuple),
    members=st.lists(NAMES, max_size=16).map(tuple),
    confidence=st.floats(0, 1),
    created_at=st.floats(0, 4e9),
)


@given(PREDICTIONS)
def test_an_id_says_what_was_sealed(prediction: Prediction) -> None:
    opened = PredictionIds(KEY).open(PredictionIds(KEY).seal(prediction))

    assert opened.confidence == pytest.approx(prediction.confidence, abs=1e-6)
    assert opened.created_at == pytest.approx(prediction.created_at, abs=1e-3)
    assert opened == dataclasses.replace(
        prediction,
        task_digest=prediction.task_digest[:32],
        confidence=opened.confidence,
        created_at=opened.created_at,
    )


def test_an_id_is_short_url_safe_text() -> None:
    sealed = PredictionIds(KEY).seal(PREDICTION)

    assert len(sealed) < 300
    assert set(sealed) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_a_sealed_id_opens_after_an_upgrade() -> None:
    """The form of the payload is part of the protocol between versions: a new one needs another `_FORM`."""
    form_2 = (
        "cQs3MbQQ5Hwwb55ZHs19SClsiYWxsIiwiY2xpbmljLWEiLCJkaWdpdHMiLCIwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWF"
        "iY2RlZiIsMyxbMywzLDVdLFsibG9yYSIsInNzZiIsImJpdGZpdCJdLDAuODcxMjM1LDE3OTAwMDAwMDAuMTIzLCIwMDExMjI"
        "zM2FhYmJjY2RkIiwwLjAxMjVd"
    )
    assert PredictionIds(KEY).open(form_2).inclusion == 0.0125


def test_an_id_of_before_labels_were_requested_opens_as_not_requested() -> None:
    sealed = (
        "cupW31JpYD_ps2dCQcyELRVsiYWxsIiwiY2xpbmljLWEiLCJkaWdpdHMiLCIwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFi"
        "Y2RlZiIsMyxbMywzLDVdLFsibG9yYSIsInNzZiIsImJpdGZpdCJdLDAuODcxMjM1LDE3OTAwMDAwMDAuMTIzLCIwMDExMjIz"
        "M2FhYmJjY2RkIl0"
    )
    opened = PredictionIds(KEY).open(sealed)
    assert (opened.nonce, opened.inclusion) == (PREDICTION.nonce, None)


@given(st.data())
def test_an_id_with_any_character_changed_is_refused(data: st.DataObject) -> None:
    sealed = PredictionIds(KEY).seal(PREDICTION)
    at = data.draw(st.integers(0, len(sealed) - 1))
    other = data.draw(st.characters().filter(lambda character: character != sealed[at]))

    with pytest.raises(InvalidInput):
        PredictionIds(KEY).open(sealed[:at] + other + sealed[at + 1 :])


@given(st.data())
def test_an_id_cut_or_extended_is_refused(data: st.DataObject) -> None:
    sealed = PredictionIds(KEY).seal(PREDICTION)
    cut = sealed[: data.draw(st.integers(0, len(sealed) - 1))]

    for altered in (cut, sealed + data.draw(st.text(min_size=1))):
        with pytest.raises(InvalidInput):
            PredictionIds(KEY).open(altered)


@given(st.text())
def test_garbage_is_refused_with_the_field_and_the_remedy(garbage: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        PredictionIds(KEY).open(garbage)

    assert caught.value.field == "prediction_id"
    assert caught.value.remedy is not None


def test_another_servers_id_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not a prediction id of this server"):
        PredictionIds(KEY).open(PredictionIds(bytes(KEY_BYTES)).seal(PREDICTION))


def test_a_huge_id_is_refused_unread() -> None:
    with pytest.raises(InvalidInput, match="at most"):
        PredictionIds(KEY).open("A" * (MAX_LENGTH + 1))


def test_every_key_opens_and_the_first_one_seals() -> None:
    old, new = KEY, bytes(reversed(KEY))
    before = PredictionIds(old).seal(PREDICTION)
    both = PredictionIds(new, old)

    assert both.open(before).nonce == PREDICTION.nonce
    assert PredictionIds(new).open(both.seal(PREDICTION)).nonce == PREDICTION.nonce
    with pytest.raises(InvalidInput, match="not a prediction id of this server"):
        PredictionIds(new).open(before)


def test_a_key_that_only_opens_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such file"):
        key_from(tmp_path / "old.key", create=False)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 32"):
        PredictionIds(b"secret")


def test_two_predictions_have_different_nonces() -> None:
    fields = {name: value for name, value in vars(PREDICTION).items() if name != "nonce"}
    assert Prediction(**fields).nonce != Prediction(**fields).nonce


def test_a_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "prediction.key"

    key = key_from(path)

    assert len(key) == KEY_BYTES
    assert key_from(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def _report(path: Path, keys: "multiprocessing.Queue[bytes]") -> None:
    keys.put(key_from(path))


def test_servers_that_start_at_once_agree_on_the_key(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    keys: multiprocessing.Queue[bytes] = context.Queue()
    servers = [context.Process(target=_report, args=(tmp_path / "prediction.key", keys)) for _ in range(8)]
    for server in servers:
        server.start()
    read = {keys.get(timeout=300) for _ in servers}
    for server in servers:
        server.join()
    keys.close()
    keys.join_thread()

    assert len(read) == 1


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prediction.key"
    path.write_bytes(b"short")

    with pytest.raises(InvalidInput, match="holds 5 bytes"):
        key_from(path)


def test_a_key_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(InvalidInput, match="prediction_key_file"):
        key_from(tmp_path / "file" / "prediction.key")


def test_an_id_never_looks_like_a_flag() -> None:
    prediction_ids = PredictionIds(bytes(32))
    predictions = (dataclasses.replace(PREDICTION, nonce=f"{i:016x}") for i in range(200))
    assert all(prediction_ids.seal(prediction).startswith("c") for prediction in predictions)
