"""The shifts by name and severity; `training.data.shifts` applies them to images. Imports no torch."""

from petl_vit.errors import InvalidInput, near

NAMES = ("noise", "blur", "rotation", "contrast")
SEVERITIES = range(1, 6)


def parse(text: str) -> tuple[str, int]:
    """The name and the severity of NAME:SEVERITY.

    Raises:
        InvalidInput: It is not written so, or there is no such shift.
    """
    name, colon, severity = text.partition(":")
    if not colon or not severity.isdigit():
        raise InvalidInput(
            f"{text!r} is not a shift", field="shift", remedy="write NAME:SEVERITY, e.g. noise:3"
        )
    check(name, int(severity))
    return name, int(severity)


def check(name: str, severity: int) -> None:
    """Refuse a shift that does not exist.

    Raises:
        InvalidInput: An unknown name or severity.
    """
    if name not in NAMES:
        hint = near(name, NAMES, most=1) or f"choose one of {', '.join(NAMES)}"
        raise InvalidInput(f"the shift {name!r} is unknown", field="shift", remedy=hint)
    if severity not in SEVERITIES:
        raise InvalidInput(
            f"the severity {severity} is out of range", field="severity", remedy="choose 1 to 5"
        )
