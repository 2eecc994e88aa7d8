"""The frozen products (linear layers and the patch convolution) and their precision.

In bf16 both factors of a product are bfloat16, its sums are float32 and its result is rounded to bfloat16;
everything between products (residual stream, norms, softmax, LayerScale, edits, heads) stays float32, as
under `torch.autocast` in training. On a CPU that multiplies in bf16, the weights are packed once in the order
in which oneDNN reads them. A product then takes a tenth less time, adds its bias at no cost, and gives a row
the same result beside any number of rows; without packing, a single row runs another kernel.

Shapes: B rows, N tokens, W output width.
"""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.precision import Precision

Params = Mapping[str, Tensor]


def linear(params: Params, name: str, x: Tensor) -> Tensor:
    """[..., in] -> [..., W]: x W^T + b in the precision of W."""
    return _product(x, params[f"{name}.weight"], params.get(f"{name}.bias"))


def part_of_linear(params: Params, name: str, x: Tensor, outputs: slice) -> Tensor:
    """The same for a slice of the outputs."""
    weight, bias = params[f"{name}.weight"], params.get(f"{name}.bias")
    if weight.is_mkldnn:  # packed weights cannot be sliced
        return _product(x, weight, bias)[..., outputs]
    return _product(x, weight[outputs], None if bias is None else bias[outputs])


def product_alone(params: Params, name: str, x: Tensor, outputs: slice) -> Tensor:
    """[..., in] -> [..., n]: x W^T without the bias, for a slice of the outputs, in the precision of W."""
    weight = params[f"{name}.weight"]
    if weight.is_mkldnn:
        return _product(x, weight, None)[..., outputs]
    return _product(x, weight[outputs], None)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    x = x.to(weight.dtype)
    if weight.is_mkldnn:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
        return y
    return F.linear(x, weight, None if bias is None else bias.to(weight.dtype))


def convolution(params: Params, name: str, images: Tensor, stride: int) -> Tensor:
    """[B, 3, S, S] -> [B, N, W]: a convolution over patches that do not overlap, in the precision of W."""
    weight, bias = params[f"{name}.weight"], params.get(f"{name}.bias")
    images, bias = images.to(weight.dtype), None if bias is None else bias.to(weight.dtype)
    if not images.is_cuda:
        return F.conv2d(images, weight, bias, stride=stride).flatten(2).transpose(1, 2)
    # There cuDNN's convolution, with its changes of layout, takes seven times as long as the same product.
    patches = images.unflatten(3, (-1, stride)).unflatten(2, (-1, stride)).permute(0, 2, 4, 1, 3, 5)
    return F.linear(patches.flatten(3).flatten(1, 2), weight.flatten(1), bias)


def wide(x: Tensor) -> Tensor:
    """The same numbers in at least float32."""
    return x.float() if x.dtype.itemsize == 2 else x


def is_weight(name: str, parameter: Tensor) -> bool:
    """Whether a parameter, by timm's name, is a factor of a product."""
    return name.endswith(".weight") and parameter.dim() > 1


def in_bf16(params: Params, *, biases: bool = True) -> dict[str, Tensor]:
    """Parameters with the weights of products in bfloat16; they are nearly all bytes of a backbone.

    Args:
        biases: Whether the biases of products are converted too.
    """
    products = {name.rpartition(".")[0] for name, p in params.items() if is_weight(name, p)}

    def narrow(name: str, parameter: Tensor) -> bool:
        return name.rpartition(".")[0] in products and (biases or is_weight(name, parameter))

    return {name: p.to(torch.bfloat16) if narrow(name, p) else p for name, p in params.items()}


def in_precision(params: Params, precision: Precision) -> dict[str, Tensor]:
    """Parameters with their products in a precision, for inference on their device.

    Args:
        precision: Not `AUTO`. FP32 leaves everything as it is.
    """
    if precision is not Precision.BF16:
        return dict(params)
    on_cpu = all(p.device.type == "cpu" for p in params.values())
    return _packed(in_bf16(params, biases=False)) if on_cpu and packs() else in_bf16(params)


def packs() -> bool:
    """Whether this CPU and this PyTorch can multiply with packed bf16 weights."""
    mkldnn = torch.ops.mkldnn
    known = hasattr(mkldnn, "_linear_pointwise") and hasattr(mkldnn, "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and known and _multiplies_in_bf16()


def _multiplies_in_bf16() -> bool:
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


@torch.inference_mode()
def _packed(params: Params) -> dict[str, Tensor]:
    """Parameters with the bf16 matrices packed for products on this CPU."""
    pack = torch.ops.mkldnn._reorder_linear_weight.default
    return {n: pack(p, None) if is_weight(n, p) and p.dim() == 2 else p for n, p in params.items()}


def dense(parameter: Tensor) -> Tensor:
    """A parameter as a plain tensor in at least float32, in which changes of weights are added."""
    return wide(parameter.to_dense() if parameter.is_mkldnn else parameter)


class DenseParams(Mapping[str, Tensor]):
    """Parameters as `dense` returns them, each converted when it is first read."""

    def __init__(self, params: Params) -> None:
        self._params, self._dense = params, dict[str, Tensor]()

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._dense:
            self._dense[name] = dense(self._params[name])
        return self._dense[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._params)

    def __len__(self) -> int:
        return len(self._params)
