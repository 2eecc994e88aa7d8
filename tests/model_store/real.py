"""A store with a real, small backbone and one task on it, for what has to compute. C = 5, blocks 2."""

from collections.abc import Callable

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from model_store.format.records import Draft, Manifest, TaskSpec
from model_store.resolution.loading import Loader
from model_store.resolution.versions import resolve
from model_store.routes.text import parse_route
from model_store.sources import backbones
from model_store.store import Store
from petl_vit import methods
from petl_vit.architecture import describe
from petl_vit.batch import Batch, Row
from petl_vit.heads import LinearHead
from petl_vit.image_input import Preprocess
from tests.petl_vit.adapters import method_of, random_tensors

Option = bool | int | float | str | None
CLASSES = ("ant", "bee", "cat", "dog", "eel")
HALF = (0.5, 0.5, 0.5)


class Real:
    """A store, its backbone at 32 px native, and the task `zoo` at 48 px, so that positions are resampled."""

    def __init__(self, store: Store, architecture: str = "vit_tiny_patch16_224", **options: Option) -> None:
        self.store = store
        request = backbones.Request(image_size=32, options={"depth": 2} | options)
        found = backbones.read(f"random:{architecture}", request)
        self.arch = describe(found.config)
        noise = torch.Generator().manual_seed(5)
        weights = {n: t + 0.02 * torch.randn(t.shape, generator=noise) for n, t in found.tensors.items()}
        self._without_key_bias(weights)
        self.backbone = store.backbones.put(found.name, found.config, weights, "random")
        self.loader = Loader(store, self.backbone)
        self.width = self.arch.features
        spec = TaskSpec.of(
            name="zoo",
            classes=CLASSES,
            preprocess=Preprocess(image_size=48, mean=HALF, std=HALF),
            backbone_digest=self.backbone.digest,
        )
        self.task = store.tasks.put(spec, self.head(1).tensors())
        self.images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(2))

    def _without_key_bias(self, tensors: dict[str, Tensor]) -> None:
        """Sets the bias of keys to zeros, as trained adapters have it, where the backbone has none."""
        if not self.arch.key_bias:
            for name, tensor in tensors.items():
                if name.endswith("attn.qkv.bias"):
                    tensor.chunk(3)[1].zero_()

    def head(self, seed: int) -> LinearHead:
        return LinearHead.init(len(CLASSES), self.width, torch.Generator().manual_seed(seed))

    def publish(
        self,
        method: str,
        name: str = "",
        seed: int = 0,
        config: dict[str, object] | None = None,
        change: Callable[[dict[str, Tensor]], None] = lambda tensors: None,
    ) -> Manifest:
        """An adapter with random tensors; `change` may alter them."""
        made = method_of(method) if config is None else methods.get(method).configure(config)
        tensors = dict(random_tensors(made, self.loader.vit(48), seed))
        self._without_key_bias(tensors)
        change(tensors)
        tensors |= self.head(seed + 10).tensors()
        draft = Draft.of(
            task="zoo",
            name=name or method.replace("_", "-"),
            method=method,
            config=made.model_dump(mode="json"),
            backbone_digest=self.backbone.digest,
            task_digest=self.task.digest,
            temperature=1.5,
            metrics={"accuracy": 0.5},
            training={"seed": seed},
        )
        return self.store.adapters.publish(draft, tensors)

    @torch.no_grad()
    def logits(self, route: str) -> Tensor:
        """[3, C] as served."""
        resolved = resolve(
            parse_route(route),
            task="zoo",
            store=self.store,
            backbone_digest=self.backbone.digest,
            extrapolate=True,
        )
        (model,) = self.loader.models(resolved)
        return torch.stack(
            Batch(self.loader.vit(48)).logits(self.images, [Row(image=i, model=model) for i in range(3)])
        )

    def timm(self, **keywords: object) -> VisionTransformer:
        """timm's own model for the task's backbone and image size, with weights of its own."""
        config = self.backbone.config
        return timm.create_model(
            config.architecture, num_classes=len(CLASSES), img_size=48, **config.options, **keywords
        ).eval()

    def timm_frozen(self) -> VisionTransformer:
        """timm's model with the frozen weights and the base head."""
        model = self.timm()
        vit = self.loader.vit(48)
        model.load_state_dict({n: vit.params[n] for n in vit.arch.shapes} | self.head(1).tensors())
        return model
