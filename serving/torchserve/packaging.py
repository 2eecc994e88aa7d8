"""A folder that TorchServe serves as it is: an archive, and the settings and metrics that fit it.

The archive holds no weights: it names the store, and the one backbone that it was made for by digest.
Adapters come from the store, so new ones need no new archive.

TorchServe has been archived since 2025-08-07 and gets no security fixes.
"""

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from model_store.format.records import BackboneRecord
from model_store.store import Store
from petl_vit.errors import Conflict, InvalidInput, NotFound
from serving.settings import Settings
from serving.torchserve.counts import counters

NOTICE = (
    "TorchServe has been archived since 2025-08-07 and gets no security fixes: "
    "keep it on loopback or on a private network."
)
FORMAT = 1
JAVA = 17
_TEMPLATES = "deploy.torchserve"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Package:
    """What to make.

    Attributes:
        backbone: The one that the archive is for; of `store`.
        settings: More settings of `corolla serve`, by name.
        version: TorchServe's, of the model.

    Raises:
        InvalidInput: TorchServe takes no such name or version, or a setting cannot work.
    """

    store: Store
    backbone: BackboneRecord
    name: str = "corolla"
    version: str = "1.0"
    settings: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for value, name in ((self.name, "name"), (self.version, "version")):
            if not _NAME.fullmatch(value):
                raise InvalidInput(
                    f"{value!r} is not a name that TorchServe takes",
                    field=name,
                    remedy="use letters, digits, _, - and . after a first letter or digit",
                )
        Settings.read(self._handler_settings)

    @property
    def archive(self) -> str:
        """The archive's file name."""
        return f"{self.name}.mar"

    def write(self, folder: Path, *, force: bool = False) -> list[Path]:
        """Writes the archive, config.properties and metrics.yaml into a folder; the files, the archive first.

        Args:
            force: Replace files that are there.

        Raises:
            Conflict: One of them is there.
            InvalidInput: The folder cannot be written.
            ModuleNotFoundError: The extra `torchserve` is not installed.
        """
        archive = _archiver()
        texts = {"config.properties": self._properties(folder), "metrics.yaml": _metrics()}
        files = [folder / name for name in (self.archive, *texts)]
        existing = [file for file in files if file.exists()]
        if existing and not force:
            raise Conflict(f"{existing[0]} exists already", field="out", remedy="add --force to replace it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._write_archive(folder, archive)
            for name, text in texts.items():
                (folder / name).write_text(text)
        except OSError as error:
            problem = f"{folder} cannot be written: {error.strerror}"
            raise InvalidInput(problem, field="out", remedy="name a folder of yours") from error
        return files

    def _write_archive(self, folder: Path, archive: Callable[..., None]) -> None:
        """The archive appears whole or not at all."""
        with tempfile.TemporaryDirectory(dir=folder, prefix=".package-") as scratch:
            parts = Path(scratch) / "parts"
            parts.mkdir()
            (parts / "handler.py").write_text(_template("handler.py"))
            (parts / "model-config.yaml").write_text(self._model_config())
            archive(
                parts,
                model_name=self.name,
                handler="handler.py",
                version=self.version,
                config_file="model-config.yaml",
                export_path=scratch,
            )
            os.replace(Path(scratch) / self.archive, folder / self.archive)

    @property
    def _handler_settings(self) -> dict[str, object]:
        place = str(self.store)
        url = place if "://" in place else str(Path(place).resolve())
        return {"store": url, "backbone": self.backbone.digest, **self.settings}

    def _model_config(self) -> str:
        written = {"format": FORMAT, "backbone_name": self.backbone.name, **self._handler_settings}
        on_cpu = self.settings.get("device") == "cpu"
        return _filled(
            "model-config.yaml",
            device_type="cpu" if on_cpu else "gpu",
            # YAML takes what JSON writes.
            settings="\n".join(f"  {key}: {json.dumps(value)}" for key, value in written.items()),
        )

    def _properties(self, folder: Path) -> str:
        return _filled("config.properties", folder=str(folder.resolve()), archive=self.archive)


def settings_of(model_config: Mapping[str, Any]) -> Settings:
    """The settings that an archive's model-config holds.

    Raises:
        InvalidInput: It was not made by this version's `corolla package torchserve`.
        NotFound: The store does not have the backbone that the archive was made for.
    """
    values = dict(model_config.get("handler") or {})
    name, version = values.pop("backbone_name", None), values.pop("format", None)
    if version != FORMAT or not values.get("store") or not values.get("backbone"):
        raise InvalidInput(
            f"model-config.yaml has format {version}, this version reads {FORMAT}",
            field="handler",
            remedy="run corolla package torchserve again",
        )
    settings = Settings.read(values)
    _check_backbone(Store.open(settings.store), str(settings.backbone), name)
    return settings


def _check_backbone(store: Store, digest: str, name: str | None) -> None:
    known = store.backbones.list()
    if digest in {record.digest for record in known}:
        return
    there = ", ".join(f"{record.name} ({record.digest[:12]})" for record in known) or "none"
    raise NotFound(
        f"the archive was made for backbone {name} ({digest[:12]}), and the store {store} has {there}",
        field="backbone",
        remedy="run corolla package torchserve again, or point the archive's store at that backbone",
    )


def java_problem() -> str | None:
    """What keeps TorchServe from starting here, or None."""
    home = os.environ.get("JAVA_HOME")  # as TorchServe looks for it
    java = f"{home}/bin/java" if home else "java"
    try:
        output = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    except (OSError, subprocess.CalledProcessError):
        return f"{java} does not run here; TorchServe needs Java {JAVA} or newer"
    major = re.search(r'version "(\d+)', output)
    if major and int(major[1]) < JAVA:
        return f"{java} is version {major[1]}; TorchServe needs Java {JAVA} or newer"
    return None


def _archiver() -> Callable[..., None]:
    """What writes a folder's files into an archive; its settings are torch-model-archiver's."""
    from model_archiver.model_archiver_config import ModelArchiverConfig
    from model_archiver.model_packaging_utils import ModelExportUtils

    # Only what writes the file: the rest gathers the parts in the machine's temporary folder under the
    # model's name, and first removes whatever has that name there.
    def archive(parts: Path, **settings: str) -> None:
        manifest = ModelExportUtils.generate_manifest_json(ModelArchiverConfig(**settings))
        ModelExportUtils.archive(settings["export_path"], settings["model_name"], str(parts), manifest)

    return archive


def _metrics() -> str:
    lines = (
        f"    - {{name: {name}, unit: count, dimensions: [{', '.join(labels)}]}}"
        for name, labels in counters()
    )
    return _filled("metrics.yaml", counters="\n".join(lines))


def _filled(name: str, **values: str) -> str:
    return Template(_template(name)).substitute(values)


def _template(name: str) -> str:
    return (resources.files(_TEMPLATES) / name).read_text()
