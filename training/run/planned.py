"""One of the adapters that a run trains."""

from dataclasses import dataclass

from petl_vit.methods.method import Method
from training.run.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Planned:
    """An adapter of a run: its name, its recipe, and its method with its config."""

    name: str
    recipe: Recipe
    method: Method
