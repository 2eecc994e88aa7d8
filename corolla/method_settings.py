"""From a method's name and keyword arguments to a recipe, with what is misspelt named."""

from collections.abc import Mapping
from typing import Any

from petl_vit import summaries
from petl_vit.errors import InvalidInput, Unsupported, near
from petl_vit.summaries import Summary
from training.run.recipe import Recipe


def trainable(method: str) -> Summary:
    """A method that is trained, by its name, with - or _.

    Raises:
        NotFound: There is no such method; names near ones.
        Unsupported: It is not trained.
    """
    summary = summaries.get(method.replace("-", "_"))
    if not summary.trained:
        raise Unsupported(
            f"{summary.title} is made of trained adapters and not trained itself",
            field="method",
            remedy="train its members, then type corolla adapters soup",
        )
    return summary


def recipe_of(
    method: str,
    settings: Mapping[str, object],
    *,
    drop_path: float | None = None,
    **values: Any,
) -> Recipe:
    """The recipe of a method.

    Args:
        settings: The method's own.
        drop_path: None is the method's own.
        values: Other fields of a `Recipe`.

    Raises:
        NotFound: There is no such method; names near ones.
        Unsupported: The method is not one that is trained.
        InvalidInput: A setting that the method does not have, or a value that cannot work.
    """
    summary = trainable(method)
    known = [setting.name for setting in summary.settings]
    for name in settings.keys() - set(known):
        remedy = near(name, [*known, *values])
        listed = f"settings of {summary.name}: {', '.join(known) or 'none'}"
        raise InvalidInput(f"{summary.name} has no setting {name!r}", field=name, remedy=remedy or listed)

    from petl_vit import methods

    return Recipe.of(
        method=summary.name,
        config=methods.get(summary.name).configure(settings).model_dump(mode="json"),
        drop_path=summary.drop_path if drop_path is None else drop_path,
        **values,
    )
