"""Labels of Feedback: from protobuf, and what became of them to protobuf."""

from functools import partial

from petl_vit.errors import InvalidInput
from protos.corolla.v1 import classifier_pb2 as pb
from serving.access.principals import Principal
from serving.feedback.feedback import Feedback
from serving.feedback.label import Label, LabelResult, Said, Source, Status
from serving.metrics.prediction_ids import Prediction

MAX_LABELS = 1000
_SOURCES = {
    pb.LABEL_SOURCE_UNSPECIFIED: Source.USER,
    pb.LABEL_SOURCE_IMPLICIT: Source.IMPLICIT,
    pb.LABEL_SOURCE_DOWNSTREAM: Source.DOWNSTREAM,
    pb.LABEL_SOURCE_USER: Source.USER,
    pb.LABEL_SOURCE_GOLD: Source.GOLD,
}
_STATUSES = {
    Status.MATCHED: pb.FEEDBACK_STATUS_MATCHED,
    Status.DUPLICATE: pb.FEEDBACK_STATUS_DUPLICATE,
    Status.CORRECTED: pb.FEEDBACK_STATUS_CORRECTED,
    Status.CONFLICT: pb.FEEDBACK_STATUS_CONFLICT,
    Status.LATE: pb.FEEDBACK_STATUS_LATE,
    Status.INVALID_TOKEN: pb.FEEDBACK_STATUS_INVALID_TOKEN,
    Status.INVALID_CLASS: pb.FEEDBACK_STATUS_INVALID_CLASS,
}


def check_count(request: pb.FeedbackRequest) -> None:
    """Refuses a request with too many labels.

    Raises:
        InvalidInput: It has more than `MAX_LABELS`.
    """
    if len(request.labels) > MAX_LABELS:
        raise InvalidInput(
            f"{len(request.labels)} labels in one request, at most {MAX_LABELS} are taken",
            field="labels",
            remedy="send them in several requests",
        )


def answered(feedback: Feedback, request: pb.FeedbackRequest, principal: Principal) -> pb.FeedbackResponse:
    """Takes the labels of a request of a principal. Blocking.

    Raises:
        Forbidden: One is of a prediction of a task or a named route that it may not use.
        InvalidInput: A source or a time that there is not.
        Overloaded, Unreachable, Corrupt, Conflict: See `Feedback.take`.
    """
    labels = [_label(message, number) for number, message in enumerate(request.labels)]
    return pb.FeedbackResponse(results=map(_result, feedback.take(labels, partial(_may_label, principal))))


def _may_label(principal: Principal, prediction: Prediction) -> bool:
    task, _, name = prediction.route.rpartition("/")
    return principal.may_use(task, name) if task else principal.may_use_task(prediction.task)


def _label(message: pb.Label, number: int) -> Label:
    if message.source not in _SOURCES:
        problem = f"source {message.source} is unknown"
        remedy = "send one of LabelSource, or none"
        raise InvalidInput(problem, field=f"labels[{number}].source", remedy=remedy)
    return Label(
        prediction_id=message.prediction_id,
        said=_said(message),
        source=_SOURCES[message.source],
        revision=message.revision,
        labelled_at=_time(message, number),
    )


def _said(message: pb.Label) -> Said:
    match message.WhichOneof("truth"):
        case "class_name":
            return Said(classes=(message.class_name,))
        case "class_index":
            return Said(classes=(message.class_index,))
        case "any_of":
            return Said(classes=(*message.any_of.class_names, *message.any_of.class_indices))
        case "unknown":
            return Said(unknown=message.unknown)
    return Said()


def _time(message: pb.Label, number: int) -> float | None:
    """When the label was given, seconds since the epoch."""
    if not message.HasField("labelled_at"):
        return None
    try:
        message.labelled_at.ToDatetime()
    except ValueError as error:
        field = f"labels[{number}].labelled_at"
        remedy = "send seconds since 1970, or leave it out"
        raise InvalidInput("not a time of the years 1 to 9999", field=field, remedy=remedy) from error
    return message.labelled_at.ToNanoseconds() / 1e9


def _result(result: LabelResult) -> pb.LabelResult:
    return pb.LabelResult(status=_STATUSES[result.status], correct=result.correct, message=result.message)
