"""What a document says of a route."""

from model_store.format.records import Manifest
from petl_vit import methods
from petl_vit.architecture import Architecture
from training.measure.candidate import Candidate
from training.measure.document import EvaluatedRoute


def described(one: Candidate, arch: Architecture) -> EvaluatedRoute:
    """A route as a document has it.

    Args:
        arch: The backbone, for the number of parameters.
    """
    adapter = one.adapter
    training = adapter.training if adapter is not None else {}
    seed, head_init, seconds = (training.get(name) for name in ("seed", "head_init", "seconds"))
    trained = [term.manifest for term in one.route.terms() if term.manifest is not None]
    return EvaluatedRoute(
        label=one.label,
        text=str(one.route),
        kind=one.kind,
        method=adapter.method if adapter is not None else "linear" if one.kind == "base" else None,
        setting=_setting(adapter) if adapter is not None else "",
        members=one.members,
        parameters=sum(_parameters(manifest, arch) for manifest in trained),
        cost=len(one.route.members),
        temperature=one.temperature,
        seed=seed if isinstance(seed, int) else None,
        head_init=head_init if isinstance(head_init, str) else None,
        seconds=float(seconds) if isinstance(seconds, int | float) else None,
        seeds_of=one.seeds_of,
    )


def _parameters(manifest: Manifest, arch: Architecture) -> int:
    return methods.get(manifest.method).configure(manifest.config).parameters(arch)


def _setting(manifest: Manifest) -> str:
    """The whole numbers of a method's settings, such as `rank=8`."""
    numbers = {
        name: value
        for name, value in manifest.config.items()
        if isinstance(value, int) and not isinstance(value, bool)
    }
    return ", ".join(f"{name}={value}" for name, value in numbers.items())
