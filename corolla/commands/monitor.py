"""`corolla monitor`: the evaluator, beside a server or a Prometheus. Imports no torch and no gRPC."""

import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import click
from prometheus_client import CollectorRegistry

from corolla import flags, monitoring, tables
from corolla.durations import Duration
from corolla.flags import epilog, option_of
from corolla.port_trust import port_trust
from model_store.store import Store
from petl_vit.errors import InvalidInput
from serving.metrics.port import MetricsPort
from serving.monitor import http
from serving.monitor.alarm_settings import AlarmSettings, SettingsByRoute, settings
from serving.monitor.alarms import SequentialAlarms
from serving.monitor.confusion import Confusions
from serving.monitor.evaluator import Evaluator, EvaluatorSettings
from serving.monitor.gauges import Gauges
from serving.monitor.loop import Loop, StateFile
from serving.monitor.pages import StatusPages
from serving.monitor.prometheus_api import PrometheusSource
from serving.monitor.samples import Source
from serving.monitor.sources import ServerSource
from serving.monitor.status import Status

PORT = 9096
_ALARMS = AlarmSettings.model_fields
_MOMENTS = 288  # of the past that are read from Prometheus


@click.command(
    epilog=epilog(
        "corolla monitor --server-metrics http://localhost:9095",
        "corolla monitor --prometheus http://prometheus:9090 --job corolla --state monitor.json",
        "corolla monitor --server-metrics localhost:9095 --once --json --token-file metrics.token",
        "corolla monitor --server-metrics https://server.example:9095 --tls-ca ca.pem",
        "corolla monitor --server-metrics localhost:9095 --alpha 0.001 --alarms alarms.toml",
        "corolla monitor --prometheus http://prometheus:9090 --job corolla --once || echo look at it",
    )
    + "\n\nExit codes: 0 done; with --once 1 when an alarm is raised; 2 a mistake, or with --once nothing "
    "answers."
)
@click.option("--server-metrics", metavar="URL", help="The metrics port of one server.")
@click.option("--prometheus", metavar="URL", help="A Prometheus, or what speaks its HTTP API.")
@click.option("--job", metavar="NAME", help="With --prometheus: the job of the servers' targets.")
@click.option(
    "--header",
    "headers",
    metavar="'NAME: VALUE'",
    multiple=True,
    help="With --prometheus: sent with every question, such as X-Scope-OrgID; may be repeated. "
    "Others may see what is typed: give a token by --token-file.",
)
@flags.port_access
@click.option(
    "--store",
    "url",
    envvar="COROLLA_STORE",
    metavar="URL",
    help="Store of the routes' references, whose confusion matrices `bbse` needs (env: COROLLA_STORE).  "
    "[default: no `bbse`]",
)
@click.option(
    "--window",
    type=Duration(60),
    default="1h",
    show_default=True,
    help="Images that estimates are made from.",
)
@click.option(
    "--label-window",
    type=Duration(60),
    default="1d",
    show_default=True,
    help="Labels that accuracy is measured by, which are few.",
)
@click.option("--every", type=Duration(1), default="30s", show_default=True, help="Between two looks.")
@click.option(
    "--history",
    type=Duration(0),
    default="1d",
    show_default=True,
    help="With --prometheus: how far back the first look goes where there is no --state.",
)
@click.option(
    "--state",
    type=flags.PATH,
    metavar="FILE",
    help="JSON file with what was seen, from which a restart goes on.  [default: none]",
)
@option_of("alpha", _ALARMS["alpha"])
@option_of("margin", _ALARMS["margin"])
@option_of("accuracy_margin", _ALARMS["accuracy_margin"])
@option_of("block", _ALARMS["block"])
@option_of("labels", _ALARMS["labels"])
@option_of("label_share", _ALARMS["label_share"])
@click.option(
    "--alarms",
    type=flags.PATH,
    metavar="FILE",
    help="TOML file with other alpha, margin, ... of some routes, in a table for each.  [default: none]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the metrics are served.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 picks a free one."
)
@click.option("--once", is_flag=True, help="Look once, print what there is, and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print each status as one line of JSON.")
def monitor(
    url: str | None,
    window: float,
    label_window: float,
    every: float,
    state: Path | None,
    host: str,
    port: int,
    once: bool,
    as_json: bool,
    alarms: Path | None,
    **others: Any,
) -> None:
    """Estimate accuracy and raise alarms, from metrics.

    Reads --server-metrics or --prometheus again and again, and shows what it finds as metrics of its own
    (/metrics on --port). Every accuracy that no label tells is an estimate; docs/monitoring.md says which to
    believe when. Nothing is lost while the source does not answer: counters only rise.

    A route whose traffic is like its reference, in each domain, raises an alarm with at most the probability
    --alpha, however long it is watched and however often; docs/alarms.md has the proof, and what it rests on.
    """
    own = settings({name: others.pop(name) for name in _ALARMS})
    evaluator = Evaluator(
        _source(every=every, once=once, **others),
        EvaluatorSettings(window_s=window, label_window_s=label_window, every_s=every),
        alarms=SequentialAlarms(SettingsByRoute.read(alarms, default=own)),
        confusions=None if url is None else Confusions(Store.open(url).references),
    )
    file = None if state is None else StateFile(state)
    resumed = file is not None and file.load(evaluator)
    if once:
        return _once(evaluator, file, as_json)
    _serve(evaluator, file, as_json, host=host, port=port, resumed=resumed)


def _source(
    *,
    server_metrics: str | None,
    prometheus: str | None,
    job: str | None,
    headers: Sequence[str],
    history: float,
    every: float,
    once: bool,
    tls_ca: Path | None,
    tls_server_name: str | None,
    token_file: Path | None,
    insecure: bool,
) -> Source:
    if (server_metrics is None) == (prometheus is None):
        both = prometheus is not None
        raise InvalidInput(
            "a server or a Prometheus is read, not both"
            if both
            else "a server or a Prometheus is to be read",
            field="server_metrics",
            remedy="leave one out" if both else "add --server-metrics URL, or --prometheus URL --job NAME",
        )
    if prometheus is None:
        assert server_metrics is not None
        _refuse_without_prometheus()
        base = http.base_url(server_metrics, "server_metrics")
        bearer = http.bearer(base, token_file, insecure=insecure)
        trust = port_trust(base, tls_ca, tls_server_name)
        return ServerSource(base, bearer=bearer, trust=trust)
    if job is None:
        raise InvalidInput("missing", field="job", remedy="name the job of the servers' targets")
    base = http.base_url(prometheus, "prometheus")
    found = PrometheusSource(
        base,
        job,
        history_s=history,
        step_s=max(every, history / _MOMENTS),
        headers=_headers(headers),
        bearer=http.bearer(base, token_file, insecure=insecure),
        trust=port_trust(base, tls_ca, tls_server_name),
    )
    if once:
        found.check()
    return found


def _refuse_without_prometheus() -> None:
    for name in ("job", "headers", "history"):
        if flags.typed(click.get_current_context(), name):
            field = "header" if name == "headers" else name
            raise InvalidInput("it needs a Prometheus", field=field, remedy="add --prometheus URL")


def _headers(lines: Sequence[str]) -> Mapping[str, str]:
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise InvalidInput(f"{line!r} is not a header", field="header", remedy="write 'NAME: VALUE'")
        headers[name.strip()] = value.strip()
    return headers


def _once(evaluator: Evaluator, file: StateFile | None, as_json: bool) -> None:
    status = evaluator.look()
    if file is not None and (problem := file.save(evaluator)):
        status = evaluator.trouble(problem)
    if as_json:
        click.echo(status.model_dump_json())
    else:
        tables.print_table(monitoring.table_of(status))
        for alarm in status.alarms:
            click.echo(f"ALARM {monitoring.alarm_line(alarm)}")
        for remark in monitoring.remarks(status):
            click.echo(f"note: {remark}", err=True)
    if status.alarms:
        click.get_current_context().exit(1)


def _serve(
    evaluator: Evaluator, file: StateFile | None, as_json: bool, *, host: str, port: int, resumed: bool
) -> None:
    registry = CollectorRegistry()
    registry.register(Gauges(lambda: evaluator.status))
    try:
        pages = StatusPages(lambda: evaluator.status, fresh_s=0.0).pages
        exporter = MetricsPort(registry, port=port, host=host, pages=pages)
    except InvalidInput as error:
        raise InvalidInput(
            error.problem, field="port", remedy="choose another, or 0 for a free one"
        ) from error
    said = [evaluator.status]

    def after(status: Status) -> None:
        if as_json:
            click.echo(status.model_dump_json())
            sys.stdout.flush()
        for line in monitoring.changes(said[0], status):
            click.echo(line, err=True)
        said[0] = status

    loop = Loop(evaluator, state=file, after=after)
    _stop_on_signals(loop)
    click.echo(
        f"reading {evaluator.status.source} every {evaluator.settings.every_s:g} s"
        f"{', going on from ' + str(file.path) if file is not None and resumed else ''}; "
        f"status {exporter.url}/, metrics {exporter.url}/metrics",
        err=True,
    )
    try:
        loop.run()
    finally:
        exporter.close()


def _stop_on_signals(loop: Loop) -> None:
    if current_thread() is main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.stop())
