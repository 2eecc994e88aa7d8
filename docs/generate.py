"""Writes the pages that are generated from code: `python -m docs.generate`, or `--check` to compare only.

docs/protocol.md is generated from the comments of the `.proto` files, docs/metrics.md from the definitions of
the metrics, docs/methods.md from the methods' files, the table of folders in docs/structure.md from the
folders, the tables of methods in docs/python.md from the classes, and the table of alerts in
docs/operations.md from Prometheus' rules. deploy/grafana/dashboard.json is for Grafana.
petl_vit/summaries.json has the methods' settings for help texts, which then import no method, and
petl_vit/plain_vits.json the ViTs of timm, for servers, which then import no timm.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from prometheus_client import CollectorRegistry

from deploy.grafana import dashboard
from docs import alerts, folders, front_door, queries, signals
from petl_vit import methods, plain_vits, summaries, timm_vit
from petl_vit.architecture import Architecture, describe
from petl_vit.backbone import BackboneConfig
from petl_vit.confidence import BINS, EDGES
from petl_vit.methods.method import Method, edit_kinds
from protos import generate as code
from serving.metrics.definitions import SECTIONS
from serving.metrics.events import Metrics
from serving.metrics.label_values import (
    MAX_DOMAINS,
    MAX_MEMBERS,
    MAX_PAIRED_MEMBERS,
    MAX_PLACES,
    MAX_ROUTES,
    UNSET,
    ZERO_PLACES,
)
from serving.metrics.series import Definition
from serving.metrics.top_classes import MAX_CLASSES

ROOT = Path(__file__).resolve().parent.parent
STRUCTURE = ROOT / "docs" / "structure.md"
PYTHON = ROOT / "docs" / "python.md"
OPERATIONS = ROOT / "docs" / "operations.md"
NOTICE = "<!-- Made by `make docs`; do not edit. -->"
COMMAND = "make docs"

Spot = tuple[int, ...]
"""Where a thing stands in a file descriptor: field numbers and indices from the top."""


@cache
def pages() -> dict[Path, str]:
    """The text of every generated page, by where it belongs."""
    return {
        ROOT / "docs" / "protocol.md": protocol(),
        ROOT / "docs" / "metrics.md": metrics(),
        ROOT / "docs" / "methods.md": all_methods(),
        STRUCTURE: folders.with_rows(STRUCTURE.read_text(), ROOT),
        PYTHON: front_door.with_tables(PYTHON.read_text()),
        OPERATIONS: alerts.with_rows(OPERATIONS.read_text()),
        dashboard.FILE: dashboard.text(),
        summaries.TABLE: summaries.current().model_dump_json(indent=2) + "\n",
        plain_vits.LIST: timm_vit.listed().text(),
    }


# Methods


def all_methods() -> str:
    """docs/methods.md."""
    half = (0.5, 0.5, 0.5)
    vit_b = describe(BackboneConfig(architecture="vit_base_patch16_224", image_size=224, mean=half, std=half))
    registered = [methods.get(name) for name in methods.names()]
    lines = [
        "# Methods",
        "",
        NOTICE,
        "",
        "Every method of the study (arXiv 2409.16434), and DoRA, VeRA and IA3, is one file of edits in",
        "`petl_vit/methods/`. [structure.md](structure.md) explains edits, and",
        "[CONTRIBUTING.md](../CONTRIBUTING.md) how to add a method. Notation: X tokens, D width, M blocks,",
        "LN LayerNorm, LS LayerScale, DP drop path, s scale, r rank or bottleneck; row vectors, x W + b.",
        "A method that folds can be written into plain timm weights. Parameters are those of ViT-B/16 at",
        "the default settings, the head not counted.",
        "",
        *_table(
            ("method", "edits", "parameters", "folds", "starts as the identity", "settings"),
            ((f"[`{m.name}`](#{m.name})", *_method_row(m(), vit_b)) for m in registered),
        ),
    ]
    for method in registered:
        module = sys.modules[method.__module__]
        lines += ["", f"## {method.name}", "", *(module.__doc__ or "").strip().splitlines()]
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    example = contributing[contributing.index("## A worked example: add a method") :]
    return _page(lines) + "\n" + example[: example.index("\n## ", 3)].strip() + "\n"


def _method_row(method: Method, arch: Architecture) -> tuple[str, ...]:
    settings = ", ".join(f"{name} {value}" for name, value in method.model_dump(mode="json").items())
    identity = "yes" if method.starts_as_identity else "no"
    edits = ", ".join(f"`{kind}`" for kind in edit_kinds(method)) or "none"
    return edits, f"{method.parameters(arch):,}", "yes" if method.foldable else "no", identity, settings


# Metrics


def metrics() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        NOTICE,
        "",
        "`corolla serve` answers scrapes on a separate port. Every per-image signal is a counter or a",
        "histogram: PromQL chooses the window and sums over replicas. `route` is a named route as",
        f"`TASK/NAME`, `adhoc` for any other, or `other` beyond {MAX_ROUTES:,} of them; `domain` is one of",
        "the server's (`--domains`, `corolla domains add`), `other` for anything else, or `unset`; `class`,",
        "`member` and `pair` (two members as `a:b`) exist for named routes only. A member has no version",
        "there, which `corolla_adapter_info` has.",
        "Beside these the process's own `process_*` metrics (memory, CPU, files) are shown.",
        "",
        "## How many series",
        "",
        "Their number is bounded by a server's configuration, whatever clients send:",
        "",
        *_table(("what", "at most", "beyond"), _bounds()),
        "",
        f"In each domain a route has {_series_by_domain(1)} series where it has one member and "
        f"{_series_by_domain(MAX_PAIRED_MEMBERS)}",
        f"where it has {MAX_PAIRED_MEMBERS}. Classes are counted by route alone. A reference that fits adds",
        f"about {len(EDGES) + BINS + 16} to a route, and one for each member and each pair of members.",
        "",
        "## Queries",
        "",
        "Each is right for one replica and for many.",
        *_queries(queries.QUERIES),
        "",
        "## Signals",
        *signals.BEFORE,
        "",
        *_table(("signal", "what it says", "where"), signals.TABLE),
        *signals.AFTER,
        "",
        "## Absent or zero",
        "",
        "The series of a route in a domain appear together, when it is first counted. The first",
        f"{ZERO_PLACES} pairs of a route and a domain, enough for ten routes in six domains, are shown at",
        "zero from the start; so are the series without these labels. Beyond them `rate()` and `increase()`",
        "do not see the images between the last scrape without a series and the first with it, and a query",
        "returns nothing where nothing was counted. A ratio, as above, is right all the same. The first",
        f"{MAX_PLACES:,} pairs that are counted have series; any other counts for the route `other`.",
        "Prometheus has the time and the size of every scrape in `scrape_duration_seconds` and",
        "`scrape_samples_scraped`; `python -m benchmarks.scrape` measures what one costs the server.",
        *_queries(queries.ABSENT),
    ]
    for title, definitions in SECTIONS.items():
        lines += [
            "",
            f"## {title}",
            "",
            *_table(("name", "type", "labels", "meaning"), map(_metric, definitions)),
        ]
    buckets = [d for definitions in SECTIONS.values() for d in definitions if d.buckets]
    lines += ["", "## Buckets", "", "Upper edges, besides +Inf.", ""]
    lines += _table(
        ("name", "edges"), ((f"`{d.name}`", " ".join(f"{e:.10g}" for e in d.buckets)) for d in buckets)
    )
    return _page(lines)


def _bounds() -> Iterator[tuple[str, ...]]:
    """What a label may be at most, and how the rest is counted."""
    pairs = MAX_PAIRED_MEMBERS * (MAX_PAIRED_MEMBERS - 1) // 2
    yield "named routes", f"{MAX_ROUTES:,}", "`other`"
    yield "pairs of a route and a domain", f"{MAX_PLACES:,}", "the route `other`"
    yield "domains, those of `corolla domains add` included", str(MAX_DOMAINS), "`other`"
    yield "members of a route", str(MAX_MEMBERS), "no series by member"
    yield "pairs of members of a route", str(pairs), "no series by pair"
    yield "classes of a route", str(MAX_CLASSES), "the rest of `corolla_predictions_total`"


def _series_by_domain(members: int) -> int:
    """How many series a route has in each domain."""
    metrics = Metrics(CollectorRegistry())
    metrics.add_route("route", [f"member-{number}" for number in range(members)])
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return sum(s.labels.get("route") == "route" and s.labels.get("domain") == UNSET for s in samples)


def _queries(queries: Mapping[str, str]) -> Iterator[str]:
    for title, promql in queries.items():
        yield from ("", f"{title}:", "", "```promql", promql.strip(), "```")


def _metric(definition: Definition) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in definition.labels)
    return f"`{definition.name}`", definition.kind, labels, definition.help


# Protocol


def protocol() -> str:
    """docs/protocol.md."""
    lines = ["# Protocol", "", NOTICE, ""]
    lines += ["Compiling it for other languages: [protos/README.md](../protos/README.md)."]
    for file in _described():
        lines += _File(file).lines()
    return _page(lines)


def _described() -> list[FileDescriptorProto]:
    with tempfile.TemporaryDirectory() as folder:
        described = Path(folder) / "protos.bin"
        code.describe(described)
        return list(FileDescriptorSet.FromString(described.read_bytes()).file)


class _File:
    """One `.proto` file as text; numbers in paths are descriptor.proto's own."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(location.path): (location.leading_comments or location.trailing_comments).strip()
            for location in file.source_code_info.location
        }
        # The file's own comment stands above its `syntax` line.
        self._about = self._comment((12,))

    def lines(self) -> Iterator[str]:
        title = ".".join([self._file.package, *(service.name for service in self._file.service)])
        yield from ("", f"## {title}", "", self._about, "", f"Source: `{self._file.name}`.")
        for index, service in enumerate(self._file.service):
            yield from self._service(service, (6, index))
        for index, message in enumerate(self._file.message_type):
            yield from self._message(message, (4, index), message.name)
        for index, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (5, index), enum.name)

    def _comment(self, path: Spot) -> str:
        return " ".join(self._comments.get(path, "").split())

    def _service(self, service: ServiceDescriptorProto, path: Spot) -> Iterator[str]:
        yield from ("", f"### service {service.name}", "", self._comment(path))
        for index, method in enumerate(service.method):
            asked, answered = (kind.rpartition(".")[2] for kind in (method.input_type, method.output_type))
            yield from ("", f"**{method.name}**({_link(asked)}) → {_link(answered)}", "")
            yield self._comment((*path, 2, index))

    def _message(self, message: DescriptorProto, path: Spot, name: str) -> Iterator[str]:
        yield from ("", f"### {name}", "", self._comment(path))
        rows = [self._field(message, field, (*path, 2, i)) for i, field in enumerate(message.field)]
        yield from ("", *(_table(("field", "number", "type", "meaning"), rows) if rows else ()))
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, (*path, 3, index), f"{name}.{nested.name}")
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, 4, index), f"{name}.{enum.name}")

    def _field(self, message: DescriptorProto, field: FieldDescriptorProto, path: Spot) -> tuple[str, ...]:
        kind = _link(_type(field))
        entry = _map_entry(message, field)
        if entry is not None:
            kind = f"map of {_type(entry.field[0])} to {_link(_type(entry.field[1]))}"
        elif field.label == FieldDescriptorProto.LABEL_REPEATED:
            kind = f"repeated {kind}"
        elif field.proto3_optional:
            kind = f"optional {kind}"
        elif field.HasField("oneof_index"):
            kind = f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
        return f"`{field.name}`", str(field.number), kind, self._comment(path)

    def _enum(self, enum: EnumDescriptorProto, path: Spot, name: str) -> Iterator[str]:
        yield from ("", f"### {name}", "", self._comment(path), "")
        values = enumerate(enum.value)
        rows = ((f"`{value.name}`", str(value.number), self._comment((*path, 2, i))) for i, value in values)
        yield from _table(("value", "number", "meaning"), rows)


def _map_entry(message: DescriptorProto, field: FieldDescriptorProto) -> DescriptorProto | None:
    """The key and value of a map; None for any other field."""
    name = field.type_name.rpartition(".")[2]
    maps = (nested for nested in message.nested_type if nested.options.map_entry)
    return next((nested for nested in maps if nested.name == name), None)


def _type(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return field.type_name.removeprefix(".corolla.v1.").removeprefix(".inference.").removeprefix(".")
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _link(kind: str) -> str:
    """A link to a message of ours; scalars start in lower case, and foreign messages have their package."""
    return f"[{kind}](#{kind.lower().replace('.', '')})" if kind[0].isupper() else kind


# Text


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _page(lines: Iterable[str]) -> str:
    """The lines as a page, without two empty lines in a row."""
    kept: list[str] = []
    for line in lines:
        if line or (kept and kept[-1]):
            kept.append(line)
    return "\n".join(kept).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated pages of docs/.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is out of date")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if not check:
            path.write_text(pages()[path])
        print(f"{path.relative_to(ROOT)}: {f'out of date; run {COMMAND}' if check else 'written'}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
