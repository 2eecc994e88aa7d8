"""What a config of another library describes, as an architecture of timm with options.

Of the listed ViTs of a family (`petl_vit.plain_vits`) the one is taken that needs the fewest options.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from petl_vit import plain_vits
from petl_vit.backbone import Options
from petl_vit.errors import InvalidInput, Unsupported
from petl_vit.facts import Activation, Facts, Pool

Normalised = Literal["imagenet", "clip", "half"]
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
"""By the names of transformers."""
_CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Described:
    """A ViT that a config describes.

    Attributes:
        architecture: timm's model name.
        options: For timm.create_model.
        image_size: Native, pixels.
        eps: Of the LayerNorms.
        antialias: Whether its code antialiases when it resamples the position embedding.
        normalised: The mean and std that weights of this family have where no file says so; None: timm's.
        notes: What the user should know.
    """

    architecture: str
    options: Options
    image_size: int
    eps: float
    antialias: bool
    normalised: Normalised | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fields:
    """The fields of a config, checked as they are read.

    Attributes:
        values: Of the file.
        defaults: What a field means that is not there.
    """

    values: Mapping[str, object]
    defaults: Mapping[str, object] = field(default_factory=dict)

    def value(self, name: str) -> object:
        found = self.values.get(name)
        return self.defaults.get(name) if found is None else found

    def count(self, name: str, *, least: int = 1) -> int:
        """An integer of at least `least`."""
        found = self.value(name)
        if type(found) is not int or found < least:
            raise _wrong(name, found, f"an integer of at least {least}")
        return found

    def number(self, name: str) -> float:
        """A positive number."""
        found = self.value(name)
        if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
            raise _wrong(name, found, "a positive number")
        return float(found)

    def flag(self, name: str) -> bool:
        found = self.value(name)
        if not isinstance(found, bool):
            raise _wrong(name, found, "true or false")
        return found

    def side(self, name: str) -> int:
        """The side of a square, which may be written as a number or as a pair of equal ones."""
        found = self.value(name)
        if isinstance(found, list) and len(found) == 2:
            if found[0] != found[1]:
                problem = f"its {name} is {found[0]} x {found[1]}, and images and patches are square here"
                raise Unsupported(problem, field=name, remedy="use a ViT of square images")
            found = found[0]
        return Fields({name: found}).count(name)

    def activation(self, name: str = "hidden_act") -> Activation:
        found = self.value(name)
        if found not in _ACTIVATIONS:
            problem = f"its MLP is not the plain one with GELU but has {found!r}"
            raise Unsupported(problem, field=name, remedy="use a ViT with GELU or a gated MLP with SiLU")
        return _ACTIVATIONS[str(found)]

    def eps(self) -> float:
        """The epsilon of the LayerNorms."""
        found = self.number("layer_norm_eps")
        if found >= 1:
            raise _wrong("layer_norm_eps", found, "below 1")
        return found


def described(
    pattern: str,
    fields: Fields,
    *,
    hidden: int,
    gated: bool = False,
    qkv_bias: bool = True,
    register_tokens: int = 0,
    pool: Pool = "token",
    normalised: Normalised | None,
    antialias: bool = False,
    notes: tuple[str, ...] = (),
) -> Described:
    """The architecture that a config's fields describe.

    Args:
        pattern: What the names of the family's architectures match.
        hidden: What the MLP's second linear takes.

    Raises:
        Unsupported: The forward does not compute it.
        InvalidInput: A field is not what it should be.
    """
    wanted = Wanted(
        width=fields.count("hidden_size"),
        depth=fields.count("num_hidden_layers"),
        heads=fields.count("num_attention_heads"),
        hidden=hidden,
        patch_size=fields.side("patch_size"),
        activation="swiglu" if gated else fields.activation(),
        qkv_bias=qkv_bias,
        register_tokens=register_tokens,
        pool=pool,
    )
    size = fields.side("image_size")
    architecture, options = wanted.nearest(pattern, size)
    return Described(
        architecture=architecture,
        options=options,
        image_size=size,
        eps=fields.eps(),
        antialias=antialias,
        normalised=normalised,
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Facts of a ViT that one of a family may differ in."""

    width: int
    depth: int
    heads: int
    hidden: int
    patch_size: int
    activation: Activation
    qkv_bias: bool
    register_tokens: int
    pool: Pool

    def nearest(self, pattern: str, size: int) -> tuple[str, Options]:
        """The listed architecture that needs the fewest options, and these.

        Raises:
            Unsupported: None can be made so by options.
        """
        found = [
            (len(options), f"_{size}" not in name, position, name, options)
            for position, name in enumerate(plain_vits.names())
            if re.fullmatch(pattern, name) and (options := self._options(name)) is not None
        ]
        if not found:
            family = pattern.replace("\\w+", "*").replace("\\d+", "*")
            raise Unsupported(
                f"no architecture of timm ({family}) has what its config says",
                field=_CONFIG,
                remedy="name one with --architecture",
            )
        _, _, _, name, options = min(found, key=lambda row: row[:3])
        return name, options

    def _options(self, name: str) -> Options | None:
        """What makes a listed architecture this one; None where options cannot."""
        facts = plain_vits.named(name)
        assert facts is not None
        rotary, gated = facts.rotary is not None, self.activation == "swiglu"
        if gated != (facts.activation == "swiglu") or (rotary and self.activation != facts.activation):
            return None
        if ("map" in (self.pool, facts.pool)) and self.pool != facts.pool:
            return None
        if facts.positions and bool(self.register_tokens) != bool(facts.register_tokens):
            return None  # it also says whether positions are those of the class token
        counts = {"depth": self.depth, "embed_dim": self.width, "num_heads": self.heads}
        usual = {"depth": facts.depth, "embed_dim": facts.width, "num_heads": facts.heads}
        others: dict[str, tuple[bool | int | str, bool | int | str]] = {
            "patch_size": (self.patch_size, facts.patch_size),
            "act_layer": (self.activation, facts.activation),
            "qkv_bias": (self.qkv_bias, facts.qkv_bias),
            "num_reg_tokens" if rotary else "reg_tokens": (self.register_tokens, facts.register_tokens),
            "global_pool": (self.pool, facts.pool),
        }
        options: Options = {n: v for n, v in counts.items() if v != usual[n]}
        options |= self._ratio(facts)
        return options | {n: value for n, (value, known) in others.items() if value != known}

    def _ratio(self, facts: Facts) -> Options:
        """The options of an MLP that is not as wide as the architecture's is."""
        ratio, rest = divmod(facts.hidden, facts.width)
        as_wide = self.width == facts.width and self.hidden == facts.hidden
        rounded = rest != 0 or "gate_value" in facts.layouts
        if as_wide or (not rounded and self.hidden == ratio * self.width):
            return {}
        packed = self.activation == "swiglu" and facts.rotary is None
        target = self.hidden * (2 if packed else 1)
        exact = target / self.width
        whole = int(self.width * exact) == target  # as timm computes it
        found: Options = {"mlp_ratio": exact if whole else (target + 0.5) / self.width}
        if "gate_value" in facts.layouts:
            found["swiglu_align_to"] = 1
        return found


def _wrong(name: str, found: object, expected: str) -> InvalidInput:
    return InvalidInput(
        f"{name} is {found!r} and not {expected}", field=_CONFIG, remedy="copy the folder again"
    )
