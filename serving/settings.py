"""The server's settings: flags of `corolla serve`, else COROLLA_* variables, else these defaults.

The environment is read here, once. An empty variable counts as unset, and the service links of Kubernetes are
not settings. Any other unknown COROLLA_* variable stops the start; the error names the nearest known one.
"""

import os
import platform
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from platformdirs import user_data_dir
from pydantic import Field, ValidationError, field_validator
from pydantic_core import PydanticUseDefault
from pydantic_settings import BaseSettings, SettingsConfigDict

from model_store.place.cache import MOST_BYTES, Cache
from petl_vit.cpus import usable_cpus
from petl_vit.errors import InvalidInput, near
from petl_vit.image_input import MAX_PIXELS
from petl_vit.precision import MEANING
from serving import address, environment
from serving.environment import PREFIX

_ELSEWHERE = frozenset(
    {
        "COROLLA_DEBUG",
        "COROLLA_LOGITS",
        "COROLLA_RUNS",
        "COROLLA_SERVER",
        "COROLLA_TLS_CA",
        "COROLLA_TLS_SERVER_NAME",
        "COROLLA_TOKEN",
        "COROLLA_TOKEN_FILE",
    }
)
"""Variables of other commands."""

_LONGEST_S = 2_000_000.0  # gRPC counts milliseconds in 32 bits


class Settings(BaseSettings):
    """Settings of a server. Each is a flag: `max_batch_rows` is `--max-batch-rows`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    store: str | None = Field(default=None, description="folder or URL of the model store")
    cache: str | None = Field(
        default=None, description="folder in which files of a remote store are kept; default: none are"
    )
    cache_bytes: int = Field(
        default=MOST_BYTES,
        ge=0,
        description="bytes of the cache; the least recently used leave it first, and 0 keeps nothing",
    )
    backbone: str | None = Field(default=None, description="name or digest; default: the only one stored")
    host: str = Field(default="127.0.0.1", description="address to listen on, or unix:/path of a socket")
    socket_mode: str = Field(
        default="600", pattern="^0?[0-7]{3}$", description="who may use a Unix socket, as in chmod"
    )
    port: int = Field(default=50051, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(
        default=9095, ge=-1, le=65535, description="Prometheus port; 0 picks a free one, -1 opens none"
    )
    metrics_host: str | None = Field(
        default=None, description="address of the Prometheus port; default: --host, of a socket 127.0.0.1"
    )
    metrics_token_file: str | None = Field(
        default=None,
        description="file with the bearer tokens, one a line, that metrics and pages are shown to; "
        "probes need none",
    )
    metrics_tls: bool = Field(
        default=False,
        description="serve metrics, pages and probes by HTTPS, with the certificate of --tls-certificate",
    )
    insecure: bool = Field(
        default=False, description="listen beyond loopback without TLS (on a network you trust)"
    )
    admin: bool | None = Field(
        default=None,
        description="take administration calls; default: on loopback, or where callers show who they are",
    )
    principals: str | None = Field(
        default=None,
        description="file of who may call, by tokens or certificates, do what, and how much; "
        "see `corolla tokens`; default: anyone who can connect",
    )
    reflection: bool = Field(
        default=True, description="show clients which services there are; with --principals, only those in it"
    )
    tls_certificate: str | None = Field(
        default=None, description="PEM file with the server's certificate chain"
    )
    tls_key: str | None = Field(default=None, description="PEM file with its private key")
    tls_client_ca: str | None = Field(
        default=None, description="PEM file; clients must have a certificate by it"
    )
    min_ping_interval_s: float = Field(
        default=0.5,
        ge=0,
        description="shortest time between a client's keepalive pings; one that pings faster is cut off",
    )
    keepalive_s: float = Field(
        default=7200.0,
        gt=0,
        le=_LONGEST_S,
        description="silence after which the server pings a client",
    )
    keepalive_timeout_s: float = Field(
        default=20.0, gt=0, le=_LONGEST_S, description="wait for the answer to a ping; then it hangs up"
    )
    max_connection_age_s: float | None = Field(
        default=None,
        gt=0,
        le=_LONGEST_S,
        description="age at which clients are asked to connect anew, a tenth more or less; default: never",
    )
    max_connection_age_grace_s: float = Field(
        default=60.0,
        gt=0,
        le=_LONGEST_S,
        description="how long the calls of a connection may then go on",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the backbone runs")
    backend: Literal["torch", "onnx", "graph"] = Field(
        default="torch",
        description="what computes; onnx in fp32 (the extra onnx), graph on a GPU (CUDA graphs)",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description=f"what the backbone computes in; {MEANING}"
    )
    bf16_fallback: Literal["fp32", "refuse"] = Field(
        default="fp32", description="how to serve an adapter whose answers bf16 changes too much"
    )
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of a forward; default: one for each usable CPU"
    )
    decode_threads: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="threads that decode and combine; default: one for each usable CPU, 4 to 16",
    )
    domains: str = Field(default="", description="comma-separated domains that metrics distinguish")
    max_batch_rows: int = Field(default=32, ge=1, description="rows of one forward")
    max_batch_ms: float = Field(
        default=200.0,
        gt=0,
        description="how long a forward of more than 8 rows should take, by the measured pace",
    )
    max_queue_rows: int = Field(
        default=1024,
        ge=1,
        description="rows that may wait, and as many that are being decoded; more are refused",
    )
    max_images: int = Field(default=64, ge=1, description="images of one request")
    max_stream_requests: int = Field(
        default=64, ge=1, description="requests of one stream in progress; more are read later"
    )
    max_pixels: int = Field(default=MAX_PIXELS, ge=1, description="pixels of one decoded image")
    max_message_bytes: int = Field(default=64 * 2**20, ge=1024, description="bytes of one gRPC message")
    max_queue_bytes: int = Field(
        default=2**30,
        ge=1,
        description="bytes of images that wait, as many that are being decoded, and as many of messages that "
        "are being answered; more are refused",
    )
    weights: str | None = Field(
        default=None,
        description="TOML file with the weights of tasks in the queue: what each gets of a busy engine",
    )
    slots: int = Field(default=256, ge=1, description="adapters that one forward may mix")
    host_bytes: int | None = Field(
        default=None,
        ge=1,
        description="bytes of adapters kept in host memory; default: 2 GiB, beside a GPU 8 GiB",
    )
    device_bytes: int = Field(
        default=2 * 2**30,
        ge=1,
        description="bytes of adapters in slots, on a GPU in its memory; without effect for torch on a CPU",
    )
    cascade_full_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of the images that cascades put to all members, for the metrics of agreement",
    )
    frozen_share: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="share of named routes' images that the frozen backbone answers too, for the metrics",
    )
    refresh_s: float = Field(
        default=1.0, gt=0, description="seconds until a moved alias or a changed route is followed"
    )
    trusted_keys: str | None = Field(
        default=None,
        description="file of public keys and digests, one a line; adapters that none of them vouches for are "
        "not loaded",
    )
    prediction_key_file: str | None = Field(
        default=None,
        description="key of prediction ids; share it between replicas; default: made once; of several, "
        "comma-separated, the first seals and all open",
    )
    labels: str | None = Field(
        default=None,
        description="where labels are kept: a SQLite file, or postgresql://... for several replicas; "
        "default: labels.db beside the prediction key",
    )
    replica: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="name of this server among those that share its labels; default: its machine and port",
    )
    label_window_days: float = Field(
        default=30.0, gt=0, le=36_500, description="age of a prediction at which its labels are late"
    )
    label_keep_days: float = Field(
        default=365.0,
        gt=0,
        le=36_500,
        description="age of a prediction at which its labels are forgotten; at least the window",
    )
    label_rows: int = Field(
        default=1_000_000, ge=1, description="labels that are kept; then the oldest are forgotten"
    )
    label_share: float = Field(
        default=0.01, ge=0, le=1, description="share of all images whose true label answers ask for"
    )
    label_boost: float = Field(
        default=10.0,
        ge=0,
        le=1e6,
        description="how much likelier an image becomes: --label-share times 1 + boost x the share of its "
        "members that were against the answer",
    )
    alarms: str | None = Field(
        default=None, description="TOML file with alpha, margin, ... of the status page's alarms, by route"
    )
    log_format: Literal["text", "json"] = Field(default="text", description="lines for people, or JSON")
    log_calls: Literal["off", "failed", "all"] = Field(
        default="off", description="which calls have a line each in the log"
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="URL of an OpenTelemetry collector, which traces go to over gRPC (the extra tracing)",
    )
    drain_s: float = Field(
        default=20.0, gt=0, le=_LONGEST_S, description="seconds that a stop waits for queued work"
    )
    stall_s: float = Field(
        default=60.0, gt=0, description="age of the oldest queued row that turns health off"
    )

    @field_validator("metrics_host")
    @classmethod
    def _plain_metrics_host(cls, value: str | None) -> str | None:
        return None if value is None else address.host_of(value)

    @field_validator("host")
    @classmethod
    def _plain_host(cls, value: str) -> str:
        return address.host_of(value)

    @field_validator("port", "metrics_port", mode="before")
    @classmethod
    def _without_links(cls, value: object) -> object:
        """A service link stands where a port could: it is not one."""
        if isinstance(value, str) and environment.is_link_address(value):
            raise PydanticUseDefault
        return value

    @classmethod
    def read(cls, flags: Mapping[str, Any]) -> "Settings":
        """The settings of this start; a flag that is None was not given.

        Raises:
            InvalidInput: A flag or variable is wrong or misspelt; names it.
        """
        _check_variables(os.environ)
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else "settings"
            field = name if flags.get(name) is not None else f"{PREFIX}{name.upper()}"
            raise InvalidInput(f"{first['msg']} (got {first.get('input')!r})", field=field) from None

    def opened_cache(self) -> Cache | None:
        """Where tensor files of the store are kept on this machine, if anywhere."""
        return Cache.at(self.cache, self.cache_bytes)

    def registered_bytes(self, *, beside_gpu: bool) -> int:
        """Bytes of host memory that adapters may take."""
        return self.host_bytes or (8 if beside_gpu else 2) * 2**30

    def decoders(self) -> int:
        """Threads that decode and combine: at least 4, because some wait for the store meanwhile."""
        return self.decode_threads or min(max(usable_cpus().count, 4), 16)

    @property
    def domain_names(self) -> list[str]:
        return [name.strip() for name in self.domains.split(",") if name.strip()]

    @property
    def key_files(self) -> list[Path]:
        """The files with the keys of prediction ids: the first one seals."""
        names = (self.prediction_key_file or "").split(",")
        default = Path(user_data_dir("corolla", appauthor=False)) / "prediction.key"
        return [Path(name.strip()) for name in names if name.strip()] or [default]

    @property
    def labels_place(self) -> str:
        """Where labels are kept: a path or a URL."""
        return self.labels or str(self.key_files[0].parent / "labels.db")

    @property
    def replica_name(self) -> str:
        """The name under which labels are counted; a server on any free port is another one at each start."""
        if self.replica is not None:
            return self.replica
        where = str(self.socket or self.port or secrets.token_hex(4))
        return f"{platform.node() or self.host}:{where}"

    @property
    def takes_admin(self) -> bool:
        """Whether administration is served: only known callers may unload adapters or move aliases."""
        if self.admin is not None:
            return self.admin
        return self.loopback or self.tls_client_ca is not None or self.principals is not None

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return address.is_loopback(self.host)

    @property
    def socket(self) -> Path | None:
        """The path of the Unix socket to listen on; None where it is a port."""
        return address.socket_path(self.host)

    @property
    def scraped_host(self) -> str:
        """Where metrics are scraped: Prometheus needs a port."""
        if self.metrics_host is not None:
            return self.metrics_host
        return "127.0.0.1" if self.host.startswith(address.UNIX) else self.host


def _check_variables(environ: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | _ELSEWHERE
    for name in environment.ours(environ):
        if name not in known:
            remedy = near(name, known, most=1) or "unset it"
            raise InvalidInput("the environment variable is not known", field=name, remedy=remedy)
