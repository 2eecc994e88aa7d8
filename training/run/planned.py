"""One of the adapters that a run trains."""

from dataclasses import dataclass

from petl_vit import methods
from petl_vit.methods.method import Method
from training.run.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An adapter of a run.

    Attributes:
        recipe: With its learning rates, once the images are known.
        method: With its config.
        rates_for: What the learning rates were chosen for; empty where the user gave one.
    """

    name: str
    recipe: Recipe
    method: Method
    rates_for: str = ""

    @classmethod
    def of(cls, name: str, recipe: Recipe) -> "Planned":
        """An adapter by its recipe, before the images are known."""
        return cls(name=name, recipe=recipe, method=methods.get(recipe.method).configure(recipe.config))
