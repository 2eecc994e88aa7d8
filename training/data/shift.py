"""The shifts by name and severity; `training.data.shifts` applies them to images. Imports no torch."""

from collections.abc import Iterable

from petl_vit.errors import InvalidInput, near

GRADED = ("noise", "blur", "rotation", "contrast")
"""Four simple ones: a first check that a measure sees a shift grow."""

IMAGENET_C = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "imagenet-c/contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The corruptions of Hendrycks and Dietterich, arXiv 1903.12261, in their order; `contrast` was taken."""

SUITES = {"graded": GRADED, "imagenet-c": IMAGENET_C}
"""Shifts that are asked for together."""

NAMES = (*GRADED, *IMAGENET_C)
SEVERITIES = range(1, 6)


def parse(text: str) -> tuple[str, int]:
    """The name and the severity of NAME:SEVERITY; SUITE/NAME:SEVERITY says of which suite it is.

    Raises:
        InvalidInput: It is not written so, or there is no such shift.
    """
    name, colon, severity = text.partition(":")
    if not colon:
        raise _not_a_shift(text)
    return _checked(_named(name), severity, text)


def parse_all(texts: Iterable[str]) -> list[tuple[str, int]]:
    """The shifts that texts ask for, each once: NAME:SEVERITY, or SUITE or SUITE:SEVERITY for many.

    Raises:
        InvalidInput: As `parse`.
    """
    shifts = dict[tuple[str, int], None]()
    for text in texts:
        suite, colon, severity = text.partition(":")
        if suite not in SUITES:
            shifts[parse(text)] = None
            continue
        chosen = [severity] if colon else map(str, SEVERITIES)
        shifts |= dict.fromkeys(_checked(name, one, text) for one in chosen for name in SUITES[suite])
    return list(shifts)


def _checked(name: str, severity: str, text: str) -> tuple[str, int]:
    if not severity.isdecimal():
        raise _not_a_shift(text)
    check(name, int(severity))
    return name, int(severity)


def check(name: str, severity: int) -> None:
    """Refuse a shift that does not exist.

    Raises:
        InvalidInput: An unknown name or severity.
    """
    if name not in NAMES:
        hint = near(name, [*NAMES, *SUITES], most=1) or f"choose one of {', '.join([*NAMES, *SUITES])}"
        raise InvalidInput(f"the shift {name!r} is unknown", field="shift", remedy=hint)
    if severity not in SEVERITIES:
        raise InvalidInput(
            f"the severity {severity} is out of range", field="severity", remedy="choose 1 to 5"
        )


def _named(name: str) -> str:
    """A shift's name, with or without its suite before it."""
    suite, slash, rest = name.partition("/")
    if name in NAMES or not slash or suite not in SUITES:
        return name
    return rest if rest in SUITES[suite] else name


def _not_a_shift(text: str) -> InvalidInput:
    return InvalidInput(
        f"{text!r} is not a shift",
        field="shift",
        remedy="write NAME:SEVERITY, e.g. noise:3, or a suite: imagenet-c, imagenet-c:3",
    )
