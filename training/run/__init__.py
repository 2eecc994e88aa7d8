"""One training run: from a recipe to registered adapters."""
