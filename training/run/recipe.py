"""A recipe: every choice that decides what a training run produces."""

import hashlib
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model_store.format.canonical import canonical_json
from petl_vit.errors import InvalidInput
from training.data.augmentation import Augmentation

Precision = Literal["fp32", "bf16", "auto"]
Keep = Literal["last", "best"]
Balance = Literal["none", "classes"]

_ADDED = {"precision": "fp32", "keep": "last", "init": "method", "balance": "none"}
"""Later fields, at the value that every run had before them: there they leave a digest as it was."""
_ADDED_SETTINGS: dict[str, dict[str, object]] = {
    "adaptformer": {"layer_scale": False},
    "convpass": {"layer_scale": False},
    "vpt_deep": {"mask": "row"},
    "vpt_shallow": {"mask": "row"},
    "vqt": {"dropout": 0.0},
}
"""The same for later settings of methods."""


class Recipe(BaseModel):
    """The hyper-parameters of one run. Defaults follow the study's evidence (docs/training.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    config: dict[str, Any] = Field(default_factory=dict)
    epochs: int = Field(default=30, ge=1, le=10_000, description="times that every image is trained on")
    batch_size: int = Field(default=64, ge=1, le=65_536, description="images of one step")
    learning_rate: float | None = Field(default=None, gt=0, le=1, description="highest learning rate")
    head_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="highest learning rate of the head; by default as --lr, or without it chosen by where "
        "the head starts",
    )
    weight_decay: float = Field(default=1e-4, ge=0, le=1, description="AdamW's, on all trained tensors")
    warmup_ratio: float = Field(
        default=0.1, ge=0, lt=1, description="share of the steps in which the learning rate rises"
    )
    drop_path: float = Field(default=0.1, ge=0, lt=1, description="stochastic depth of the last block")
    augment: Augmentation = Field(default="none", description="random changes to training images")
    balance: Balance = Field(
        default="none",
        description="show every image once an epoch, or every class equally often (for long tails)",
    )
    head_init: Literal["probe", "random"] = Field(
        default="probe",
        description="start the head from the task's base head, or at random (members differ more)",
    )
    init: Literal["method", "published"] = Field(
        default="method",
        description="start the adapter as its method says, or as the study's published runs did: "
        "every linear layer of the method N(0, 0.02)",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="decides all randomness of training")
    precision: Precision = Field(
        default="fp32",
        description="of the frozen backbone's products; what is trained is always fp32. auto: bf16 where the "
        "hardware has it, a step takes less time and features stay the same, by a short measurement",
    )
    keep: Keep = Field(
        default="last",
        description="the epoch that is registered: the last, or the one with the best held-out accuracy",
    )

    @classmethod
    def of(cls, **values: Any) -> Self:
        """The recipe of a user's values.

        Raises:
            InvalidInput: A value is out of range; names it.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidInput(
                f"{first['msg'][0].lower()}{first['msg'][1:]} (got {first.get('input')!r})",
                field=str(first["loc"][0]),
            ) from None

    @property
    def highest_rates(self) -> tuple[float, float]:
        """The highest learning rates of the adapter and of its head.

        Raises:
            ValueError: The recipe leaves the adapter's to `training.run.rates`.
        """
        if self.learning_rate is None:
            raise ValueError("no learning rate is chosen yet")
        return self.learning_rate, self.learning_rate if self.head_rate is None else self.head_rate

    def digest(self, *, backbone: str, task: str, data: str, heldout: str) -> str:
        """Names a run: equal digests train equal adapters on the same machine and versions.

        Args:
            data, heldout: Digests of the training and the held-out images; these choose the best epoch.

        Raises:
            ValueError: The precision is not chosen yet.
        """
        if self.precision == "auto":
            raise ValueError("no precision is chosen yet")
        identity = {name: v for name, v in self.model_dump().items() if (name, v) not in _ADDED.items()}
        later = _ADDED_SETTINGS.get(self.method, {}).items()
        identity["config"] = {name: v for name, v in self.config.items() if (name, v) not in later}
        if self.head_rate in (None, self.learning_rate):  # as in every run before heads had a rate
            del identity["head_rate"]
        identity |= {"backbone": backbone, "task": task, "data": data}
        if self.keep == "best":
            identity |= {"heldout": heldout}
        return hashlib.sha256(canonical_json(identity)).hexdigest()
