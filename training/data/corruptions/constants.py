"""The constants of ImageNet-C and CIFAR-10-C, severities 1 to 5: Hendrycks and Dietterich, arXiv 1903.12261.

Read from `corruptions.py` and `make_cifar_c.py` of https://github.com/hendrycks/robustness, Apache-2.0. What
each number is stands at the function that takes it. Lengths are pixels at the table's `SIDES`.
"""

Strength = tuple[float, ...]
Severities = tuple[Strength, Strength, Strength, Strength, Strength]
Table = dict[str, Severities]


def _singles(*values: float) -> Severities:
    one, two, three, four, five = values
    return (one,), (two,), (three,), (four,), (five,)


def _zooms(*ends_and_steps: tuple[float, float]) -> Severities:
    one, two, three, four, five = ends_and_steps
    return one, two, three, four, five


_ODD = 244  # the original's slip of the pen for 224, which its lengths are multiples of

IMAGENET_C: Table = {
    "gaussian_noise": _singles(0.08, 0.12, 0.18, 0.26, 0.38),
    "shot_noise": _singles(60, 25, 12, 5, 3),
    "impulse_noise": _singles(0.03, 0.06, 0.09, 0.17, 0.27),
    "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "zoom_blur": _zooms((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "snow": (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
    "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    "brightness": _singles(0.1, 0.2, 0.3, 0.4, 0.5),
    "imagenet-c/contrast": _singles(0.4, 0.3, 0.2, 0.1, 0.05),
    "elastic_transform": (
        (_ODD * 2, _ODD * 0.7, _ODD * 0.1),
        (_ODD * 2, _ODD * 0.08, _ODD * 0.2),
        (_ODD * 0.05, _ODD * 0.01, _ODD * 0.02),
        (_ODD * 0.07, _ODD * 0.01, _ODD * 0.02),
        (_ODD * 0.12, _ODD * 0.01, _ODD * 0.02),
    ),
    "pixelate": _singles(0.6, 0.5, 0.4, 0.3, 0.25),
    "jpeg_compression": _singles(25, 18, 15, 10, 7),
}

CIFAR_10_C: Table = {
    "gaussian_noise": _singles(0.04, 0.06, 0.08, 0.09, 0.10),
    "shot_noise": _singles(500, 250, 100, 75, 50),
    "impulse_noise": _singles(0.01, 0.02, 0.03, 0.05, 0.07),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": _zooms((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "brightness": _singles(0.05, 0.1, 0.15, 0.2, 0.3),
    "imagenet-c/contrast": _singles(0.75, 0.5, 0.4, 0.3, 0.15),
    "elastic_transform": (
        (32 * 0, 32 * 0, 32 * 0.08),
        (32 * 0.05, 32 * 0.2, 32 * 0.07),
        (32 * 0.08, 32 * 0.06, 32 * 0.06),
        (32 * 0.1, 32 * 0.04, 32 * 0.05),
        (32 * 0.1, 32 * 0.03, 32 * 0.03),
    ),
    "pixelate": _singles(0.95, 0.9, 0.85, 0.75, 0.65),
    "jpeg_compression": _singles(80, 65, 58, 50, 40),
}

SIDES = {"imagenet-c": 224, "cifar-10-c": 32}

SMALL = 96
"""Images whose shorter side is less than so many pixels take the constants of CIFAR-10-C."""


def constants(name: str, severity: int, side: int) -> tuple[Strength, float]:
    """The numbers of a corruption, and what its lengths are multiplied by, for images of a shorter side.

    Below the side of CIFAR-10-C lengths stay as they are: there they are about one pixel.
    """
    if side < SMALL:
        return CIFAR_10_C[name][severity - 1], max(1.0, side / SIDES["cifar-10-c"])
    return IMAGENET_C[name][severity - 1], side / SIDES["imagenet-c"]
