"""TorchServe's handler: hands each batch of TorchServe to Corolla's engine at once.

`corolla package torchserve` puts this file into an archive. TorchServe imports it in each worker process,
calls `initialize` once and `handle` for every batch.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes
from ts.utils.util import PredictionException

from serving.access.caller import Caller
from serving.torchserve.callers import Callers, without_token
from serving.torchserve.counts import Gains, counters
from serving.torchserve.embedded import Embedded
from serving.torchserve.packaging import settings_of
from serving.torchserve.requests import Failure, PredictionRequest, failure, request_of

_Admitted = tuple[PredictionRequest, Caller]


class Handler:
    """One resident backbone with every adapter of the store."""

    def initialize(self, context: Any) -> None:
        """Loads the backbone that the archive was made for, and runs it once.

        Raises:
            CorollaError: The store has another backbone, or cannot be read; the worker ends and says so.
        """
        gpu = context.system_properties.get("gpu_id")
        if gpu is not None:
            _show_only(int(gpu))
        settings = settings_of(context.model_yaml_config)
        self.engine = Embedded(settings)
        self._callers = Callers(settings, self.engine.metrics)
        self._gains = Gains(self.engine.registry)
        _add_counters(context.metrics)
        self._emit(context.metrics)

    def handle(self, rows: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """The JSON answers to a batch of TorchServe; a failed request has its error as its answer.

        Raises:
            PredictionException: The only request failed: its status reaches gRPC's clients no other way.
        """
        self._callers.follow()
        headers = [context.get_all_request_header(position) for position in range(len(rows))]
        answers = self._answers(list(map(self._read, rows, headers)))
        self._emit(context.metrics)
        if len(answers) == 1 and isinstance(answers[0], Failure):
            raise PredictionException(json.dumps(answers[0].document), answers[0].status)
        return [_written(answer, position, context) for position, answer in enumerate(answers)]

    def _answers(self, rows: list[_Admitted | Failure]) -> list[dict[str, Any] | Failure]:
        """The answers in the order of the rows; all that can be read go to the engine at once."""
        admitted = [row for row in rows if not isinstance(row, Failure)]
        questions = [(row.request, row.document) for row, _ in admitted]
        outcomes = self.engine.answer(questions, [caller for _, caller in admitted])
        for (_, caller), outcome in zip(admitted, outcomes, strict=True):
            self._callers.answered(caller, outcome if isinstance(outcome, BaseException) else None)
        answers = iter(outcomes)
        return [row if isinstance(row, Failure) else _outcome(next(answers)) for row in rows]

    def _read(self, row: Mapping[str, Any], headers: Mapping[str, Any]) -> _Admitted | Failure:
        """A request and who sends it, which is known before anything else of it is read."""
        try:
            caller = self._callers.admit(row, headers)
        except Exception as error:
            return failure(error)
        try:
            return request_of(without_token(row)), caller
        except Exception as error:
            self._callers.answered(caller, error)
            return failure(error)

    def _emit(self, metrics: Any) -> None:
        for name, values, gained in self._gains.read():
            metrics.get_metric(name, MetricTypes.COUNTER).add_or_update(gained, list(values))


def _add_counters(metrics: Any) -> None:
    """Adds our counters where the server's metrics.yaml lacks them; it then has to detect them."""
    known = metrics.cache.get(MetricTypes.COUNTER, {})
    for name, labels in counters():
        if name not in known:
            metrics.add_metric_to_cache(name, "count", list(labels), MetricTypes.COUNTER)


def _outcome(outcome: dict[str, Any] | BaseException) -> dict[str, Any] | Failure:
    return failure(outcome) if isinstance(outcome, BaseException) else outcome


def _written(answer: dict[str, Any] | Failure, position: int, context: Any) -> bytes:
    context.set_response_content_type(position, "application/json")
    if isinstance(answer, Failure):
        context.set_response_status(answer.status, "", position)
        answer = answer.document
    return json.dumps(answer).encode()


def _show_only(gpu: int) -> None:
    """Shows the worker only the GPU that TorchServe gave it. Called before anything uses CUDA."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu) if visible is None else visible.split(",")[gpu]
