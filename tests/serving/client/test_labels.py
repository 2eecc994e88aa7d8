"""What programs say of labels, as it is sent."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from petl_vit.errors import InvalidInput
from protos.corolla.v1 import classifier_pb2 as pb
from serving.client.labels import MAX_LABELS, Label, requests_of


def message(truth: Any, **fields: Any) -> pb.Label:
    (request,) = requests_of([Label(prediction_id="id", truth=truth, **fields)])
    return request.labels[0]


def test_a_truth_is_a_name_a_number_several_or_unknown() -> None:
    assert message("cat").class_name == "cat"
    assert message(0).WhichOneof("truth") == "class_index"
    assert message(np.int64(3)).class_index == 3
    several = message(["cat", 3]).any_of
    assert ([*several.class_names], [*several.class_indices]) == (["cat"], [3])
    assert message([]).WhichOneof("truth") == "any_of"
    assert message(None).unknown


def test_a_pair_has_the_source_and_the_revision_of_the_call_and_a_label_its_own() -> None:
    labels = [("id", "cat"), Label(prediction_id="id", truth="cat", source="implicit")]
    (request,) = requests_of(labels, source="gold", revision=2)

    assert [(label.source, label.revision) for label in request.labels] == [
        (pb.LABEL_SOURCE_GOLD, 2),
        (pb.LABEL_SOURCE_IMPLICIT, 0),
    ]


def test_a_time_without_a_zone_is_in_utc() -> None:
    at = datetime(2026, 11, 26, 18, 30)
    assert message("cat", labelled_at=at).labelled_at.ToDatetime(UTC) == at.replace(tzinfo=UTC)


def test_many_labels_are_sent_in_several_requests() -> None:
    requests = requests_of([(str(number), "cat") for number in range(2 * MAX_LABELS + 1)])

    assert [len(request.labels) for request in requests] == [MAX_LABELS, MAX_LABELS, 1]
    assert requests[2].labels[0].prediction_id == str(2 * MAX_LABELS)
    assert [len(request.labels) for request in requests_of([])] == [0]


@pytest.mark.parametrize("truth", [True, -1, 2**32, 1.5, [True], object()])
def test_what_is_not_a_class_is_refused_before_anything_is_sent(truth: Any) -> None:
    with pytest.raises(InvalidInput, match=r"labels\[1\]: .* is not a class"):
        requests_of([("id", "cat"), ("id", truth)])


def test_an_unknown_source_is_refused_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="did you mean gold"):
        requests_of([("id", "cat")], source="golden")  # type: ignore[arg-type]
