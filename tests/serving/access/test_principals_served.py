"""A server with principals, asked over TLS: who may call what, in all its services."""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.corolla.v1 import admin_pb2, admin_pb2_grpc, classifier_pb2, classifier_pb2_grpc
from protos.inference import grpc_service_pb2, grpc_service_pb2_grpc
from serving.access import tokens
from serving.access.principals import Principal
from serving.engine.fair_queue import Party
from tests.serving.access.callers import ALL, NOW, Callers, expired
from tests.serving.certificates import Certificates
from tests.serving.oip.requests import request as oip_request
from tests.serving.world import WAIT_S, Running, World, encoded, until

Codes = grpc.StatusCode
DENIED, UNKNOWN = Codes.PERMISSION_DENIED, Codes.UNAUTHENTICATED


class Site:
    """A running server with principals, and its callers."""

    def __init__(self, running: Running, callers: Callers, certificates: Certificates) -> None:
        self.running, self.callers = running, callers
        shown = grpc.ssl_channel_credentials(certificates.read("ca.pem"))
        self.channel = grpc.secure_channel(running.address, shown)

    def code(self, call: Callable[..., Any], request: Any, *metadata: tuple[str, str]) -> grpc.StatusCode:
        """What becomes of a call."""
        return self.error(call, request, *metadata)[0]

    def error(
        self, call: Callable[..., Any], request: Any, *metadata: tuple[str, str]
    ) -> tuple[grpc.StatusCode, str]:
        try:
            answer = call(request, metadata=metadata, timeout=WAIT_S)
            if hasattr(answer, "__next__"):
                list(answer)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code, error.details()
        return Codes.OK, ""


@pytest.fixture(scope="module")
def site(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("access")
    certificates = Certificates(folder)
    certificates.issue("server")
    callers = Callers(folder / "principals.json")
    for name in ("infer", "feedback", "admin"):
        callers.add(name, name)
    callers.add("all", *ALL)
    callers.add("late", *ALL, token=expired())
    callers.add("gone", *ALL, token={"revoked": True})
    settings = world.settings(
        tls_certificate=certificates.path("server.pem"),
        tls_key=certificates.path("server.key"),
        principals=str(callers.write()),
        refresh_s=0.05,
    )
    with Running(settings) as running:
        site = Site(running, callers, certificates)
        with site.channel:
            yield site


def classify(**fields: Any) -> classifier_pb2.ClassifyRequest:
    return classifier_pb2.ClassifyRequest(
        task="shapes", route="lora", images=[classifier_pb2.Image(data=encoded(0))], **fields
    )


def calls(channel: grpc.Channel) -> dict[str, tuple[Callable[..., Any], Any]]:
    """One call of each kind, by the scope that it needs."""
    classifier = classifier_pb2_grpc.ClassifierStub(channel)
    oip = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)
    admin = admin_pb2_grpc.AdminStub(channel)
    stream = classifier_pb2.StreamRequest(id="1", request=classify())
    return {
        "infer Classify": (classifier.Classify, classify()),
        "infer ClassifyStream": (
            lambda request, **more: classifier.ClassifyStream(iter([request]), **more),
            stream,
        ),
        "infer Embed": (
            classifier.Embed,
            classifier_pb2.EmbedRequest(task="shapes", images=[classifier_pb2.Image(data=encoded(0))]),
        ),
        "feedback Feedback": (classifier.Feedback, classifier_pb2.FeedbackRequest()),
        "admin ListAdapters": (admin.ListAdapters, admin_pb2.ListAdaptersRequest()),
        "admin Reload": (admin.Reload, admin_pb2.ReloadRequest()),
        "infer ModelInfer": (oip.ModelInfer, oip_request()),
        "infer ModelMetadata": (oip.ModelMetadata, grpc_service_pb2.ModelMetadataRequest(name="shapes/lora")),
        "infer RepositoryIndex": (oip.RepositoryIndex, grpc_service_pb2.RepositoryIndexRequest()),
        "admin RepositoryModelLoad": (
            oip.RepositoryModelLoad,
            grpc_service_pb2.RepositoryModelLoadRequest(model_name="shapes/lora"),
        ),
        "any ServerReflectionInfo": (
            lambda request, **more: reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                iter([request]), **more
            ),
            reflection_pb2.ServerReflectionRequest(list_services=""),
        ),
        "any Nonsense": (channel.unary_unary("/corolla.v1.Classifier/Nonsense"), b""),
    }


CALLS = tuple(calls(grpc.insecure_channel("127.0.0.1:1")))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_without_a_token_that_counts_is_unauthenticated(site: Site, name: str) -> None:
    call, request = calls(site.channel)[name]
    stranger = tokens.issue(created=NOW)[0]
    for metadata in (
        (),
        (("authorization", f"Bearer {stranger}"),),
        (("authorization", "Basic dTpw"),),
        site.callers.header("late"),
        site.callers.header("gone"),
        site.callers.header("all") * 2,
    ):
        assert site.code(call, request, *metadata) is UNKNOWN


@pytest.mark.parametrize("name", CALLS)
def test_a_call_needs_its_scope(site: Site, name: str) -> None:
    call, request = calls(site.channel)[name]
    scope = name.partition(" ")[0]
    served = Codes.UNIMPLEMENTED if "Nonsense" in name else Codes.OK
    for caller in ("infer", "feedback", "admin"):
        expected = served if scope in (caller, "any") else DENIED
        code, details = site.error(call, request, *site.callers.header(caller))
        assert code is expected, caller
        assert code is not DENIED or f"does not have the scope {scope}" in details
    assert site.code(call, request, *site.callers.header("all")) is served


def test_health_needs_nothing(site: Site) -> None:
    oip = grpc_service_pb2_grpc.GRPCInferenceServiceStub(site.channel)
    check = health_pb2_grpc.HealthStub(site.channel).Check
    assert check(health_pb2.HealthCheckRequest(), timeout=WAIT_S).status == 1
    assert oip.ServerReady(grpc_service_pb2.ServerReadyRequest(), timeout=WAIT_S).ready
    assert oip.ServerLive(grpc_service_pb2.ServerLiveRequest(), timeout=WAIT_S).live


def test_every_call_of_every_service_says_what_it_needs(site: Site) -> None:
    handlers = {
        f"/{service.full_name}/{method.name}"
        for descriptor, name in (
            (classifier_pb2.DESCRIPTOR, "Classifier"),
            (admin_pb2.DESCRIPTOR, "Admin"),
            (grpc_service_pb2.DESCRIPTOR, "GRPCInferenceService"),
        )
        for service in [descriptor.services_by_name[name]]
        for method in service.methods
    }
    opened = {path for path in handlers if _answers_a_stranger(site, path)}
    assert {path.rpartition("/")[2] for path in opened} == {"ServerLive", "ServerReady"}


def _answers_a_stranger(site: Site, path: str) -> bool:
    return site.code(site.channel.unary_unary(path), b"") is not UNKNOWN


def test_a_refused_call_is_counted_and_its_message_is_not_read(site: Site) -> None:
    def refused(reason: str) -> float:
        return site.running.value("corolla_refused_calls_total", reason=reason)

    before = refused("no_credentials"), refused("scope")
    call = site.channel.unary_unary("/corolla.v1.Classifier/Classify")
    assert site.code(call, b"\xff" * 100_000) is UNKNOWN  # not a message
    assert site.code(call, b"\xff" * 100_000, *site.callers.header("feedback")) is DENIED
    assert (refused("no_credentials"), refused("scope")) == (before[0] + 1, before[1] + 1)
    values = site.running.value
    for code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        assert values("corolla_requests_total", method="Classify", code=code) > 0
    denied = values("corolla_principal_requests_total", principal="feedback", code="PERMISSION_DENIED")
    assert denied > 0


def test_a_principal_is_counted_with_its_calls_and_rows(site: Site) -> None:
    def counted() -> tuple[float, float]:
        value = site.running.value
        return (
            value("corolla_principal_requests_total", principal="infer", code="OK"),
            value("corolla_principal_rows_total", principal="infer"),
        )

    calls, rows = counted()
    request = classify()
    request.route = "lora, ssf"
    request.images.append(request.images[0])
    classifier = classifier_pb2_grpc.ClassifierStub(site.channel)
    assert site.code(classifier.Classify, request, *site.callers.header("infer")) is Codes.OK
    assert counted() == (calls + 1, rows + 4)


def test_a_new_token_and_a_revoked_one_count_without_a_restart(site: Site) -> None:
    call, request = calls(site.channel)["infer Classify"]
    site.callers.add("new")
    site.callers.write()
    until(lambda: site.code(call, request, *site.callers.header("new")) is Codes.OK)
    site.callers.change("new", tokens=())
    until(lambda: site.code(call, request, *site.callers.header("new")) is UNKNOWN)


def test_the_file_is_followed_beyond_a_failure_and_used_where_calls_are_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, failures, keeping = site.running.server._access, [RuntimeError("odd"), MemoryError()], []
    assert access is not None
    changed, keep = access.changed, access.limits.keep

    def failing() -> Iterable[Principal] | None:
        if failures:
            raise failures.pop()
        return changed()

    def watched(names: Collection[str]) -> None:
        keeping.append(threading.current_thread())
        keep(names)

    monkeypatch.setattr(access, "changed", failing)
    monkeypatch.setattr(access.limits, "keep", watched)
    call, request = calls(site.channel)["infer Classify"]
    site.callers.add("later")
    site.callers.write()
    until(lambda: site.code(call, request, *site.callers.header("later")) is Codes.OK)
    assert not failures
    assert set(keeping) == {site.running._thread}


@pytest.mark.parametrize(("taken", "code"), [({"tokens": ()}, UNKNOWN), ({"scopes": ("feedback",)}, DENIED)])
def test_a_stream_ends_with_its_token_and_with_its_scope(
    site: Site, taken: dict[str, Any], code: grpc.StatusCode
) -> None:
    site.callers.add("streaming")
    site.callers.write()
    (call, request), header = calls(site.channel)["infer Classify"], site.callers.header("streaming")
    until(lambda: site.code(call, request, *header) is Codes.OK)
    stream = classifier_pb2_grpc.ClassifierStub(site.channel).ClassifyStream
    answers: list[classifier_pb2.StreamResponse] = []

    def requests() -> Iterator[classifier_pb2.StreamRequest]:
        yield classifier_pb2.StreamRequest(id="before", request=request)
        until(lambda: len(answers) == 1)
        site.callers.change("streaming", **taken)
        until(lambda: site.code(call, request, *header) is code)
        yield classifier_pb2.StreamRequest(id="after", request=request)

    for answer in stream(requests(), metadata=header, timeout=WAIT_S):
        answers.append(answer)
    assert [answer.WhichOneof("outcome") for answer in answers] == ["response", "error"]
    assert answers[1].error.code == code.value[0]


# Weights


def test_the_queue_shares_by_the_weights_of_the_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher = site.running.server.service.batcher
    seen: list[Party] = []
    submit = batcher.submit

    async def watched(*args: Any, principal: Party, **more: Any) -> Any:
        seen.append(principal)
        return await submit(*args, principal=principal, **more)

    monkeypatch.setattr(batcher, "submit", watched)
    asked = classifier_pb2_grpc.ClassifierStub(site.channel).Classify

    def weight() -> float:
        assert site.code(asked, classify(), *site.callers.header("infer")) is Codes.OK
        return seen[-1].weight

    assert weight() == 1
    site.callers.change("infer", weight=4.0)
    until(lambda: weight() != 1)

    assert seen[0] == Party("infer", 1.0)
    assert seen[-1] == Party("infer", 4.0)
