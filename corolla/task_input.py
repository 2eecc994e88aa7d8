"""The flags that say how images of a new task reach the backbone. Imports no torch."""

from collections.abc import Callable
from typing import Any, get_args

import click

from corolla.flags import typed
from petl_vit.image_input import Interpolation, Resize
from training.run.transform import NORMALISATIONS, TRANSFORMS, with_transform

_OPTIONS = (
    click.option(
        "--image-size",
        type=click.IntRange(14, 1024),
        help="Input size of a new task, px.  [default: the backbone's]",
    ),
    click.option(
        "--resize",
        type=click.Choice(get_args(Resize)),
        help="How images of a new task reach it: squashed, the centre cropped, or both.  [default: squash]",
    ),
    click.option(
        "--crop-ratio",
        type=click.FloatRange(0.1, 1),
        help="Share of the side that is kept where a new task's images are cropped.  [default: 1]",
    ),
    click.option(
        "--interpolation",
        type=click.Choice(get_args(Interpolation)),
        help="How images of a new task are scaled.  [default: bicubic]",
    ),
    click.option(
        "--normalise",
        type=click.Choice([*NORMALISATIONS]),
        help="Mean and deviation of a new task's pixels: none, 0.5, ImageNet's or CLIP's.  [default: the "
        "backbone's]",
    ),
    click.option(
        "--transform",
        type=click.Choice([*TRANSFORMS]),
        help="As in one of the study's experiments: what --resize, --crop-ratio, --interpolation, "
        "--normalise and --augment do not say.",
    ),
)


def task_input(command: Callable[..., Any]) -> Callable[..., Any]:
    """The flags, on a command that has --augment too and calls `apply_transform`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def apply_transform(options: dict[str, Any]) -> None:
    """Puts the values of --transform where the user typed none, and takes the flag away."""
    transform = options.pop("transform")
    asked = {name: options[name] for name in ("resize", "crop_ratio", "interpolation", "normalise")}
    augment = options["augment"] if typed(click.get_current_context(), "augment") else None
    filled = with_transform(transform, asked | {"augment": augment})
    options |= filled | {"augment": filled["augment"] or "none"}
