"""The random changes to training images, by name; `training.data.pixels` and `crops` make them. No torch."""

from typing import Literal

Augmentation = Literal["none", "flip", "crop-flip", "resized-crop-flip", "resized-crop-flips", "imagenet"]
OF_PIXELS = ("none", "flip", "crop-flip")
"""Those that change images which have the model's size already; the others start from the whole image."""
