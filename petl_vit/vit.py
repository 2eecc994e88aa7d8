"""The frozen Vision Transformer: one forward with named sites over timm's parameters.

Knows the architecture and the parameters of a pre-norm ViT as timm.models.vision_transformer names them. Does
not know any PETL method: an executor (`petl_vit.executor`) carries out the operations and the edits at their
sites, which are named after timm's modules: `patch_embed.proj`, `norm_pre`, `blocks.L.norm1`,
`blocks.L.attn.qkv`, `blocks.L.attn.proj`, `blocks.L.norm2`, `blocks.L.mlp.fc1`, `blocks.L.mlp.fc2`, `norm`,
`fc_norm`, and the two sublayers `blocks.L.attn` and `blocks.L.mlp` (their output after LayerScale, before the
residual add). Queries, keys and values, or the gate and the value of an MLP, that a checkpoint has apart are
one linear here (`petl_vit.timm_names`). Attention pooling (`attn_pool`, in SigLIP and PE) has no sites: no
method of the study edits it, and full fine-tuning replaces its parameters like all others. Source:
timm.models.vision_transformer and timm.models.eva (Wightman), arXiv 2010.11929; attention pooling:
arXiv 2303.15343; rotary positions: `petl_vit.rotary`.

Shapes: B rows, N tokens, D width, H heads, P patch size, S image size.
"""

import copy
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from petl_vit.architecture import ACTIVATIONS, Architecture, check_tensors, describe
from petl_vit.backbone import CLASS_AND_MEAN, BackboneConfig
from petl_vit.executor import Executor
from petl_vit.precision import Precision
from petl_vit.products import Params, convolution, in_precision, linear, wide
from petl_vit.rotary import tables

PATCH_CONVOLUTION = ("patch_embed.proj.weight", "patch_embed.proj.bias")
_OF_STREAM = "blocks.0.norm1.weight"
_EMBEDDINGS = ("cls_token", "reg_token", "pos_embed")


class FrozenViT:
    """A backbone at one image size: its parameters and the one forward over them.

    Args:
        config: The backbone's config; its `image_size` is the native one of the tensors.
        tensors: Every parameter by its name (no head); `petl_vit.timm_names` has those of timm's other ViTs.
        image_size: The size to run at, pixels; None means native. The position embedding is
            resampled as timm does it (bicubic, antialiased if the config says so).

    Raises:
        Unsupported: The architecture is not one this forward computes.
        Corrupt: Names or shapes of the tensors are not the architecture's.
        InvalidInput: The image size is not a multiple of the patch size.
    """

    def __init__(
        self, config: BackboneConfig, tensors: Mapping[str, Tensor], *, image_size: int | None = None
    ) -> None:
        native = describe(config)
        check_tensors(tensors, native.shapes, what=f"backbone {config.architecture}")
        self.config = config
        self.arch = native.at(image_size or native.image_size)
        self.params: dict[str, Tensor] = dict(tensors)
        if self.arch.positions and self.arch.grid != native.grid:
            self.params["pos_embed"] = _resampled(
                tensors["pos_embed"], native, self.arch.grid, antialias=config.pos_embed_antialias
            )
        self.params |= self._rotary_tables(self.dtype)

    @property
    def device(self) -> torch.device:
        return self.params[_OF_STREAM].device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype between products: of the residual stream, norms and features."""
        return self.params[_OF_STREAM].dtype

    @property
    def product_dtype(self) -> torch.dtype:
        """The dtype of the frozen products."""
        return self.params["blocks.0.attn.qkv.weight"].dtype

    def in_precision(self, precision: Precision) -> "FrozenViT":
        """The same backbone with its products in a precision; for inference.

        Args:
            precision: Not `AUTO`. FP32 leaves everything as it is.
        """
        return self._with(in_precision(self.params, precision))

    def to(self, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> "FrozenViT":
        """The same backbone on another device or in another dtype; tensors that need no change are shared."""
        params = {name: p.to(device=device, dtype=dtype) for name, p in self.params.items()}
        if dtype not in (None, self.dtype):  # rounded tables would not be those of the dtype
            params |= {name: t.to(device=device) for name, t in self._rotary_tables(dtype).items()}
        return self._with(params)

    def _rotary_tables(self, dtype: torch.dtype) -> dict[str, Tensor]:
        arch = self.arch
        if arch.rotary is None:
            return {}
        found = tables(arch.rotary, arch.grid, arch.width // arch.heads, dtype)
        return {name: table.to(self.device) for name, table in found.items()}

    def _with(self, params: dict[str, Tensor]) -> "FrozenViT":
        other = copy.copy(self)
        other.params = params
        return other

    def forward(self, images: Tensor, run: Executor) -> Tensor:
        """Pooled features of images, one row each: [B, 3, S, S] -> [B, F]."""
        return self.features(run.over(PATCH_CONVOLUTION, self.patches, images), run)

    def patches(self, images: Tensor, params: Params) -> Tensor:
        """[U, 3, S, S] -> [U, N, D]: the patch convolution alone, which all rows of an image share."""
        return wide(self.narrow_patches(images, params))

    def narrow_patches(self, images: Tensor, params: Params) -> Tensor:
        """The same in the precision of the product."""
        return convolution(params, "patch_embed.proj", images, self.arch.patch_size)

    def stream(self, images: Tensor, run: Executor, block: int) -> Tensor:
        """What comes to a block, [B, N, D] of images [B, 3, S, S]: the patches, for block 0."""
        x = run.over(PATCH_CONVOLUTION, self.patches, images)
        if block == 0:
            return x
        return self._through(x, run, {}, range(block))

    def features(
        self,
        patches: Tensor,
        run: Executor,
        forks: Mapping[int, Tensor] | None = None,
        *,
        start: int = 0,
    ) -> Tensor:
        """Pooled features of a batch of rows.

        Args:
            patches: [U, N, D], of the distinct images; what comes to block `start`, where that is not 0.
            run: The executor with the rows' edits.
            forks: Where rows that were equal so far become several: before block l (0: before the edits of
                the patch embedding; the depth: before the final norm) the stream is indexed by `forks[l]`,
                int64. None where row i is image i.

        Returns:
            [B, D].
        """
        forks = forks or {}
        x = self._through(patches, run, forks, range(start, self.arch.depth))
        if self.arch.depth in forks:
            x = x[forks[self.arch.depth]]
        return run.feature(self._feature(x if self.arch.pool == "token" else run.strip(x), run))

    def _through(self, x: Tensor, run: Executor, forks: Mapping[int, Tensor], blocks: range) -> Tensor:
        """What comes out of the last of these blocks, from what comes to the first: for block 0, patches."""
        z: Tensor | None = None
        for number in blocks:
            if number == 0:
                x = self._begun(x, forks.get(0), run)
            elif number in forks:
                x = x[forks[number]]
            following = number + 1 in blocks and number + 1 not in forks
            x, z = self._block(number, x, z, run, f"blocks.{number + 1}.norm1" if following else None)
        return x

    def _begun(self, patches: Tensor, sources: Tensor | None, run: Executor) -> Tensor:
        """[B, N, D] from patches [U, N, D]: with their edits, embeddings and tokens that the edits carry."""
        x = run.begin(patches, sources, _EMBEDDINGS, self._embed)
        if self.arch.pre_norm:
            x = run.norm("norm_pre", x)
        return run.extend(x)

    def _feature(self, x: Tensor, run: Executor) -> Tensor:
        """The final norm and the pooling: [B, N, D], or the class token's [B, 1, D], -> [B, D]."""
        if self.arch.final_norm == "fc_norm":
            return run.norm("fc_norm", self._pool(x, run))
        if self.arch.pool == "token":  # the norm acts on each token alone
            return x[:, 0] if self.arch.final_norm is None else run.norm("norm", x[:, 0])
        return self._pool(x if self.arch.final_norm is None else run.norm("norm", x), run)

    def _embed(self, x: Tensor, params: Params) -> Tensor:
        """Class and register tokens in front of the patches, and positions: [B, N, D]."""
        names = [*(["cls_token"] if self.arch.class_token else [])]
        names += ["reg_token"] if self.arch.register_tokens else []
        prefix = [params[name].expand(x.shape[0], -1, -1) for name in names]
        if self.arch.positions and self.arch.position_of_prefix:
            return torch.cat([*prefix, x], dim=1) + params["pos_embed"]
        return torch.cat([*prefix, x + params["pos_embed"] if self.arch.positions else x], dim=1)

    def _block(
        self, number: int, x: Tensor, z: Tensor | None, run: Executor, following: str | None
    ) -> tuple[Tensor, Tensor | None]:
        """[B, N, D] -> same; in the last block [B, 1, D], the class token, where only that is pooled.

        Args:
            z: x after the block's first norm; None where nobody took it yet.
            following: The norm that the outcome is returned after as well.
        """
        block = f"blocks.{number}"
        z = run.norm(f"{block}.norm1", x) if z is None else z
        out = run.attend(number, run.turn(run.linear(f"{block}.attn.qkv", z)))
        if number + 1 == self.arch.depth and self.arch.pool == "token":
            x, z, out = (run.strip(t)[:, :1].contiguous() for t in (x, z, out))
        y = self._scaled(f"{block}.ls1.gamma", run.linear(f"{block}.attn.proj", out), run)
        x, z = run.add_norm(f"{block}.attn", x, z, y, f"{block}.norm2")
        h = run.activate(run.linear(f"{block}.mlp.fc1", z))
        y = self._scaled(f"{block}.ls2.gamma", run.linear(f"{block}.mlp.fc2", h), run)
        if following is None:
            return run.add(f"{block}.mlp", x, z, y), None
        return run.add_norm(f"{block}.mlp", x, z, y, following)

    def _scaled(self, gamma: str, y: Tensor, run: Executor) -> Tensor:
        return run.over((gamma,), lambda z, params: z * params[gamma], y) if self.arch.layer_scale else y

    def _pool(self, x: Tensor, run: Executor) -> Tensor:
        """[B, N, D] -> [B, D]."""
        if self.arch.pool == "token":
            return x[:, 0]
        patches = x[:, self.arch.prefix_tokens :]
        if self.arch.attention_pool is not None:
            names = tuple(name for name in self.params if name.startswith("attn_pool."))
            return run.over(names, self._attention_pool, x if self.arch.attention_pool.prefix else patches)
        if self.arch.pool == CLASS_AND_MEAN:
            return torch.cat([x[:, 0], patches.mean(dim=1)], dim=-1)
        return patches.mean(dim=1)

    def _attention_pool(self, x: Tensor, params: Params) -> Tensor:
        """One learned query over all tokens, then an MLP with a residual: [B, N, D] -> [B, D]."""

        def product(name: str, y: Tensor) -> Tensor:
            return linear(params, f"attn_pool.{name}", y)

        pool = self.arch.attention_pool
        assert pool is not None
        heads, activation = pool.heads, ACTIVATIONS[pool.activation]
        q = product("q", params["attn_pool.latent"]).unflatten(-1, (heads, -1)).transpose(1, 2)
        k, v = product("kv", x).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        pooled = F.scaled_dot_product_attention(q.expand(x.shape[0], -1, -1, -1), k, v)
        y = wide(product("proj", pooled.flatten(1)))
        weight, bias = params["attn_pool.norm.weight"], params["attn_pool.norm.bias"]
        z = F.layer_norm(y, weight.shape, weight, bias, self.arch.eps)
        return y + product("mlp.fc2", activation(product("mlp.fc1", z)))


def _resampled(positions: Tensor, native: Architecture, grid: int, *, antialias: bool) -> Tensor:
    """[1, prefix + native.grid^2, D] -> [1, prefix + grid^2, D], as timm does it."""
    prefix = native.prefix_tokens if native.position_of_prefix else 0
    patches = positions[:, prefix:].float().reshape(1, native.grid, native.grid, -1).permute(0, 3, 1, 2)
    scaled = F.interpolate(patches, size=[grid, grid], mode="bicubic", antialias=antialias)
    flat = scaled.permute(0, 2, 3, 1).reshape(1, -1, positions.shape[-1]).to(positions.dtype)
    return torch.cat([positions[:, :prefix], flat], dim=1) if prefix else flat
