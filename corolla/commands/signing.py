"""`corolla adapters sign` and `verify`: who vouches for a version."""

from pathlib import Path
from typing import Any

import click

from corolla import flags, tables
from corolla.flags import epilog
from corolla.names import chosen_task
from model_store.format.records import Manifest
from model_store.format.signature import Signature, SigningKey, fingerprint, is_key
from model_store.format.trust import TrustedKeys
from model_store.routes.text import parse_adapter
from model_store.store import Store


@click.command(
    "sign",
    epilog=epilog(
        "corolla adapters sign digits/lora:3 --key release.key",
        "corolla adapters sign lora@prod --task digits --key ~/.ssh/id_ed25519 --json",
    ),
)
@click.argument("adapter")
@click.option("--key", "path", type=flags.PATH, required=True, help="File with a private Ed25519 key.")
@flags.task()
@flags.store
@flags.as_json
def sign(adapter: str, path: Path, task: str | None, url: str | None, as_json: bool) -> None:
    """Sign one version, so that servers may require it.

    ADAPTER is [TASK/]NAME[:VERSION|@ALIAS]. Its tensors are held to their digest first. The signature lies
    beside the version; it is of this version under this name alone, so what is published or imported under
    another is signed again; `corolla store copy` copies it. Servers with --trusted-keys load what a key of
    theirs has signed.
    """
    key = SigningKey.read(path.expanduser())
    store = Store.open(url)
    manifest = _resolved(store, adapter, task)
    signature = store.adapters.sign(manifest, key)
    if as_json:
        return tables.print_json(_document(manifest, signature, intact=True))
    click.echo(f"{manifest} is signed by {fingerprint(signature.key)}")


@click.command(
    "verify",
    epilog=epilog(
        "corolla adapters verify digits/lora:3",
        "corolla adapters verify digits/lora@prod --trusted-keys trusted_keys",
    ),
)
@click.argument("adapter")
@flags.trusted_keys("it")
@flags.task()
@flags.store
@flags.as_json
def verify(adapter: str, trusted_keys: Path | None, task: str | None, url: str | None, as_json: bool) -> None:
    """Check one version, and who vouches for it.

    ADAPTER is [TASK/]NAME[:VERSION|@ALIAS]. Its tensors are read and held to their digest. Exits 2 where they
    differ, and with --trusted-keys where nobody in that file vouches for it. `corolla store verify` checks
    all versions.
    """
    trusted = None if trusted_keys is None else TrustedKeys(trusted_keys.expanduser()).now()
    store = Store.open(url)
    manifest = _resolved(store, adapter, task)
    store.adapters.load(manifest)
    vouches = None if trusted is None else store.adapters.signatures.voucher(manifest, trusted)
    signatures = store.adapters.signatures.of(manifest)
    documents = [
        _document(manifest, signature, intact=store.adapters.signatures.covers(signature, manifest))
        for signature in signatures
    ]
    problems = [str(problem) for problem in store.adapters.signatures.problems(manifest)]
    if as_json:
        return tables.print_json(
            {
                "adapter": str(manifest),
                "digest": manifest.digest,
                "trusted": vouches,
                "signatures": documents,
                "problems": problems,
            }
        )
    click.echo(f"{manifest} is what its digest says, {manifest.digest[:12]}")
    intact = [signed for signed in documents if signed["intact"]]
    for signed in intact:
        click.echo(f"  signed by {signed['fingerprint']}, {signed['signed_at']}")
    if not intact:
        click.echo("  signed by nobody")
    for problem in problems:
        click.echo(f"  NOT a signature: {problem}")
    if vouches is not None:
        click.echo(f"  trusted by {vouches}")


def _resolved(store: Store, adapter: str, task: str | None) -> Manifest:
    ref = parse_adapter(adapter)
    return store.adapters.resolve(ref, ref.task or chosen_task(store, task))


def _document(manifest: Manifest, signature: Signature, *, intact: bool) -> dict[str, Any]:
    shown = fingerprint(signature.key) if is_key(signature.key) else "no key"
    return {
        "adapter": str(manifest),
        "fingerprint": shown,
        "key": signature.key,
        "signed_at": signature.signed_at.isoformat(),
        "intact": intact,
    }
