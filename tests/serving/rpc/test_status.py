from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from petl_vit.errors import (
    Conflict,
    CorollaError,
    Corrupt,
    Draining,
    Expired,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    Unsupported,
)
from serving.rpc.status import status_of


def detail(status: status_pb2.Status, kind: type) -> Any:
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput, 3),
        (Unsupported, 3),
        (Expired, 4),
        (NotFound, 5),
        (Forbidden, 7),
        (Overloaded, 8),
        (Conflict, 10),
        (CorollaError, 13),
        (Draining, 14),
        (Corrupt, 15),
    ],
)
def test_every_error_has_its_code(error: type[CorollaError], code: int) -> None:
    assert status_of(error("it broke")).code == code


def test_the_message_names_the_field_and_the_remedy() -> None:
    status = status_of(InvalidInput("it is odd", field="images[2]", remedy="make it even"))

    assert status.message == "images[2]: it is odd; make it even"
    request = detail(status, error_details_pb2.BadRequest)
    assert isinstance(request, error_details_pb2.BadRequest)
    assert [violation.field for violation in request.field_violations] == ["images[2]"]


@pytest.mark.parametrize("error", [Overloaded, Draining])
def test_what_passes_says_when_to_try_again(error: type[CorollaError]) -> None:
    retry = detail(status_of(error("full")), error_details_pb2.RetryInfo)

    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToMilliseconds() > 0


def test_what_stays_wrong_says_nothing_of_trying_again() -> None:
    assert detail(status_of(NotFound("gone")), error_details_pb2.RetryInfo) is None


def test_a_long_message_is_cut_so_that_it_fits_in_the_metadata() -> None:
    status = status_of(InvalidInput("x" * 100_000, field="route"))

    assert len(status.SerializeToString()) < 4000
