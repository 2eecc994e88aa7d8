"""Prediction ids: the prediction that was sealed, or `InvalidInput`."""

from petl_vit.errors import InvalidInput
from serving.metrics.prediction_ids import Prediction, PredictionIds

_IDS = PredictionIds(bytes(32), b"x" * 32)


def seeds() -> list[bytes]:
    prediction = Prediction(
        route="best",
        domain="",
        task="digits",
        task_digest="0" * 64,
        predicted=1,
        votes=(1, None),
        confidence=0.5,
        created_at=1e9,
        nonce="00",
    )
    ids = (_IDS.seal(prediction), PredictionIds(b"y" * 32).seal(prediction))
    return [each.encode() for each in ids]


def check(data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        opened = _IDS.open(text)
    except InvalidInput:
        return
    assert opened.task == "digits", "an id that was never sealed was opened"
