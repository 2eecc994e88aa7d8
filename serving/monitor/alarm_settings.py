"""How sure alarms have to be, for each route: what a user sets.

Settings of some routes are a TOML file with a table for each; what it leaves out is as for all others::

    ["digits/best"]
    alpha = 0.001
    block = 50
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petl_vit.errors import InvalidInput, near


class AlarmSettings(BaseModel):
    """What the alarms of one route promise, and what they let pass."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    alpha: float = Field(
        default=0.01,
        gt=0,
        le=1,
        description="probability that a route whose traffic is like its reference in each domain ever raises "
        "an alarm",
    )
    margin: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="how far the mean of an indicator may rise above that of the reference",
    )
    accuracy_margin: float = Field(
        default=0.03, ge=0, lt=1, description="how far labelled accuracy may fall below that of the reference"
    )
    block: int = Field(
        default=1, ge=1, description="images in a row that may depend on each other: bursts, duplicates"
    )

    labels: Literal["requested", "all"] = Field(
        default="requested",
        description="labels that alarms of accuracy are from: those that servers requested, whoever sends "
        "others, or all, where they come no matter whether the answer was right",
    )
    label_share: float = Field(
        default=0.01, gt=0, le=1, description="the least --label-share of the servers, for requested labels"
    )

    def margin_of(self, kind: str) -> float:
        """The margin of one kind of alarm."""
        return self.accuracy_margin if kind == "accuracy" else self.margin


@dataclass(frozen=True, kw_only=True)
class SettingsByRoute:
    """The settings of every route.

    Attributes:
        default: Of routes that are not named.
        routes: Of those that are.
    """

    default: AlarmSettings = field(default_factory=AlarmSettings)
    routes: Mapping[str, AlarmSettings] = field(default_factory=dict)

    def of(self, route: str) -> AlarmSettings:
        """The settings of one route."""
        return self.routes.get(route, self.default)

    @classmethod
    def read(cls, file: Path | None, *, default: AlarmSettings | None = None) -> Self:
        """From a file; without one, the default for all.

        Raises:
            InvalidInput: It cannot be read, or as `parse`.
        """
        default = default or AlarmSettings()
        if file is None:
            return cls(default=default)
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            problem = f"{file} cannot be read: {(reason or '').lower()}"
            raise InvalidInput(problem, field="alarms") from error
        return cls.parse(text, source=f"alarms: {file}", default=default)

    @classmethod
    def parse(cls, text: str, *, source: str = "alarms", default: AlarmSettings | None = None) -> Self:
        """From a file.

        Args:
            source: What errors call it.
            default: What a route's table overrides, and what holds for routes without one.

        Raises:
            InvalidInput: It is not TOML, or a setting is not known or cannot be what it says; names it.
        """
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InvalidInput(f"it is not TOML: {error}", field=source) from error
        routes = {}
        for route, own in document.items():
            if not isinstance(own, dict):
                raise InvalidInput(
                    f"{route}: it is not in the table of a route",
                    field=source,
                    remedy='write ["task/name"] above the settings of a route; flags set those of all routes',
                )
            routes[route] = settings(own, over=default, source=f'{source}: "{route}"')
        return cls(default=default or AlarmSettings(), routes=routes)


def settings(
    values: Mapping[str, Any], *, over: AlarmSettings | None = None, source: str = ""
) -> AlarmSettings:
    """Settings from a user's values.

    Args:
        over: The settings that they override; default: the defaults.
        source: What errors write before the name of a setting.

    Raises:
        InvalidInput: A value cannot be; names the setting.
    """
    base = {} if over is None else over.model_dump()
    try:
        return AlarmSettings.model_validate(base | dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        field = f"{source}: {name}" if source else name
        if first["type"] == "extra_forbidden":
            remedy = (
                near(name, AlarmSettings.model_fields) or f"one of {', '.join(AlarmSettings.model_fields)}"
            )
            raise InvalidInput("the setting is not known", field=field, remedy=remedy) from error
        raise InvalidInput(
            f"{first['input']!r} cannot be: {first['msg'].lower()}", field=field, remedy=_remedy(name)
        ) from error


def _remedy(name: str) -> str | None:
    if name == "alpha":
        return "give a probability above 0, such as 0.01; no alarm can promise never to be false"
    known = AlarmSettings.model_fields.get(name)
    return None if known is None else f"it is the {known.description}; default {known.default}"
