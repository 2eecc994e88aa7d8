"""`corolla methods`: the PETL methods, and what each costs on a backbone."""

from typing import Any

import click

from corolla import flags, tables
from corolla.flags import epilog
from model_store.store import Store
from petl_vit.backbone import BackboneConfig
from petl_vit.errors import NotFound


@click.command(epilog=epilog("corolla methods", "corolla methods --backbone vit_large_patch16_224 --json"))
@click.option(
    "--backbone", default="vit_base_patch16_224", show_default=True, help="timm name or a stored one."
)
@flags.store
@flags.as_json
def methods(backbone: str, url: str | None, as_json: bool) -> None:
    """List the PETL methods and what they cost."""
    config = _config(backbone, url)

    from petl_vit import methods as registry
    from petl_vit.architecture import describe
    from petl_vit.methods.method import edit_kinds

    arch = describe(config)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "title": method.title,
            "parameters": method().parameters(arch),
            "edits": edit_kinds(method()),
            "foldable": method.foldable,
            "paper": method.paper,
            "starts_as_identity": method().starts_as_identity,
            "settings": method().model_dump(mode="json"),
        }
        for name, method in ((name, registry.get(name)) for name in registry.names())
    ]
    if as_json:
        return tables.print_json(rows)
    table = tables.table_of("method", f"parameters on {backbone}", "edits", "folds", "paper", "settings")
    for row in rows:
        settings = ", ".join(f"{k} {v}" for k, v in row["settings"].items())
        folds = "yes" if row["foldable"] else "no"
        edits = ", ".join(row["edits"]) or "none"
        table.add_row(row["name"], f"{row['parameters']:,}", edits, folds, row["paper"], settings)
    tables.print_table(table)


def _config(backbone: str, url: str | None) -> BackboneConfig:
    """The configuration of a stored backbone or of a timm name."""
    try:
        return Store.open(url).backbones.get(backbone).config
    except NotFound:
        import timm

        known = timm.get_pretrained_cfg(backbone)
        half = (0.5, 0.5, 0.5)
        size = known.input_size[-1] if known else 224
        return BackboneConfig(architecture=backbone, image_size=size, mean=half, std=half)
