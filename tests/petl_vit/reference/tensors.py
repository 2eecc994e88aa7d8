"""Random tensors of a method, none of them zero."""

from typing import Any, NamedTuple

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Generator, Tensor

from tests.petl_vit.reference.draft import Config
from tests.petl_vit.reference.linears import PLACES, ia3_targets, target_sites
from tests.petl_vit.reference.outputs import ssf_sites
from tests.petl_vit.reference.parameters import bias_names, norm_names, parameter_names


class Spec(NamedTuple):
    """A tensor to draw: centre + std * normal noise, in the given shape."""

    shape: tuple[int, ...]
    std: float
    centre: Tensor | float = 0.0


Plan = dict[str, Spec]


def random_tensors(
    method: str,
    model: VisionTransformer,
    generator: Generator,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> dict[str, Tensor]:
    """Non-zero tensors of the method's names and shapes, large enough to be seen in the feature.

    config: rank (default 4), prompts (n, default 3), names (selective; default: all of the last block).
    Other keys are ignored, so that a method's whole config can be passed.
    """
    plan = tensor_plan(method, model, config)
    return {name: _draw(spec, generator).to(dtype) for name, spec in plan.items()}


def _draw(spec: Spec, generator: Generator) -> Tensor:
    """On the CPU in float64, so that the dtype asked for changes the rounding and nothing else."""
    centre = torch.as_tensor(spec.centre).detach().to("cpu", torch.float64)
    return centre + spec.std * torch.randn(spec.shape, generator=generator, dtype=torch.float64)


def tensor_plan(method: str, model: VisionTransformer, config: Config) -> Plan:
    """What the method owns on this model: names, shapes and how to draw them."""
    if method in ("linear", "bitfit", "layernorm", "selective", "full"):
        return _moved_plan(model, _moved_names(method, model, config))
    if method in ("fact_tt", "fact_tk"):
        return _fact_plan(method, model, config)
    if method == "vpt_shallow":
        return {"prompts": Spec((config.get("prompts", 3), model.embed_dim), 0.5)}
    if method == "ssf":
        return _ssf_plan(model)
    if method in ("dora", "vera"):
        return _sites_plan(method, model, config)
    if method == "ia3":
        return _ia3_plan(model, config)
    plan = {
        f"blocks.{block}.{name}": spec
        for block in range(len(model.blocks))
        for name, spec in _block_plan(method, model.embed_dim, config).items()
    }
    return plan | _shared_plan(method, model, config)


def _shared_plan(method: str, model: VisionTransformer, config: Config) -> Plan:
    """What a method with a plan per block owns besides."""
    if method == "difffit":
        return _moved_plan(model, bias_names(model) | norm_names(model))
    if method == "vqt":
        return {"mix": Spec((1 + len(model.blocks) * config.get("prompts", 3),), 0.5)}
    return {}


def _moved_names(method: str, model: VisionTransformer, config: Config) -> set[str]:
    everything = parameter_names(model)
    last = {name for name in everything if name.startswith(f"blocks.{len(model.blocks) - 1}.")}
    chosen: dict[str, set[str]] = {
        "linear": set(),
        "bitfit": bias_names(model),
        "layernorm": norm_names(model),
        "selective": set(config.get("names", last)),
        "full": everything,
    }
    return chosen[method]


def _moved_plan(model: VisionTransformer, names: set[str]) -> Plan:
    parameters = dict(model.named_parameters())
    return {name: Spec(tuple(parameters[name].shape), 0.05, parameters[name]) for name in sorted(names)}


def _ssf_plan(model: VisionTransformer) -> Plan:
    plan: Plan = {}
    for site in ssf_sites(model):
        weight = model.get_submodule(site).weight
        assert isinstance(weight, Tensor)
        plan |= {f"{site}.scale": Spec((len(weight),), 0.1, 1.0), f"{site}.shift": Spec((len(weight),), 0.1)}
    return plan


def _sites_plan(method: str, model: VisionTransformer, config: Config) -> Plan:
    """DoRA and VeRA, at every target."""
    plan: Plan = {}
    for site in target_sites(model, config):
        weight, r = model.get_parameter(f"{site}.weight"), config.get("rank", 4)
        out, width = weight.shape
        if method == "vera":
            plan |= {f"{site}.vera_d": Spec((r,), 0.5), f"{site}.vera_b": Spec((out,), 0.3)}
            continue
        plan |= {f"{site}.lora_a": Spec((width, r), width**-0.5), f"{site}.lora_b": Spec((r, out), 0.3)}
        plan[f"{site}.magnitude"] = Spec((out,), 0.1, weight.norm(dim=1))
    return plan


def _ia3_plan(model: VisionTransformer, config: Config) -> Plan:
    widths = {name: len(model.get_parameter(f"blocks.0.{place}.weight")) for name, place in PLACES.items()}
    hidden = model.get_parameter("blocks.0.mlp.fc2.weight").shape[1]
    widths |= {"hidden": hidden} | dict.fromkeys("qkv", model.embed_dim)
    places = PLACES | {part: f"attn.{part}" for part in "qkv"} | {"hidden": "mlp.hidden"}
    return {
        f"blocks.{block}.{places[target]}.scale": Spec((widths[target],), 0.3, 1.0)
        for block in range(len(model.blocks))
        for target in ia3_targets(config)
    }


def _fact_plan(method: str, model: VisionTransformer, config: Config) -> Plan:
    d, r, depth = model.embed_dim, config.get("rank", 4), len(model.blocks)
    ends = {"u": Spec((d, r), d**-0.5), "v": Spec((r, d), 0.3)}
    if method == "fact_tt":
        return ends | {"s": Spec((depth, 12, r, r), r**-0.5)}
    return ends | {"c": Spec((r, r, r), r**-0.5), "p": Spec((r, 12 * depth), r**-0.5)}


def _block_plan(method: str, d: int, config: Config) -> Plan:
    """Names inside one block, for the methods that treat all blocks alike."""
    r, n = config.get("rank", 4), config.get("prompts", 3)
    adapter = _bottleneck_plan(d, r)
    conv = adapter | {"conv.weight": Spec((r, r, 3, 3), (9 * r) ** -0.5), "conv.bias": Spec((r,), 0.1)}
    rep = {
        "a": Spec((d, r), d**-0.5),
        "a0": Spec((r,), 0.1),
        "b": Spec((2, r // 2, d // 2), 0.3),
        "b0": Spec((d,), 0.1),
    }
    plans: dict[str, Plan] = {
        "lora": {"attn.qkv.lora_a": Spec((d, r), d**-0.5), "attn.qkv.lora_b": Spec((r, 3 * d), 0.3)},
        "difffit": {"gain1": Spec((d,), 0.1, 1.0), "gain2": Spec((d,), 0.1, 1.0)},
        "adaptformer": _under(adapter, "adapter"),
        "pfeiffer": _under(adapter, "adapter"),
        "houlsby": _under(adapter, "attn_adapter") | _under(adapter, "mlp_adapter"),
        "convpass": _under(conv, "attn_conv") | _under(conv, "mlp_conv"),
        "repadapter": _under(rep, "attn_adapter") | _under(rep, "mlp_adapter"),
        "vpt_deep": {"prompts": Spec((n, d), 0.5)},
        "vqt": {"prompts": Spec((n, d), 0.5)},
    }
    return plans[method]


def _bottleneck_plan(d: int, r: int) -> Plan:
    return {
        "down.weight": Spec((d, r), d**-0.5),
        "down.bias": Spec((r,), 0.1),
        "up.weight": Spec((r, d), 0.3),
        "up.bias": Spec((d,), 0.1),
    }


def _under(plan: Plan, prefix: str) -> Plan:
    return {f"{prefix}.{name}": spec for name, spec in plan.items()}
