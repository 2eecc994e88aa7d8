"""The settings that a sweep tries, by method: the study's grids, a small one, and a user's own. No torch.

`paper` is the grid of Mai et al. for VTAB-1K (arXiv 2409.16434, and the configurations published with it):
each method's own settings, times two learning rates and two weight decays; and the like of it for DoRA, VeRA
and IA3, which they did not try.

`small` is four trials a method, for a CPU. What varies follows what won in the study's result files: the
rank or scale that its winners differ in, around the values that won most tasks, and two rates. Methods
without settings of their own have four rates. Rates are factors on what `corolla train` would take
(`training.run.rates`), as the study's rates suit runs of 1,500 steps only. They are around 1 for methods
whose winners took the study's lower rate, and from 1 upwards for those whose winners took the higher one.
"""

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from petl_vit import summaries
from petl_vit.errors import InvalidInput, near
from petl_vit.summaries import Summary

Value = bool | int | float | str
Point = dict[str, Value]
"""One trial's settings by name: the method's, and those of `RECIPE`."""
Settings = Mapping[str, tuple[Value, ...]]

EVERY = "*"
"""The entry of a grid that holds for every method that does not say otherwise."""
FACTOR = "lr_factor"
"""Times the learning rates that `corolla train` would choose for the run."""
RECIPE = (
    "learning_rate",
    FACTOR,
    "head_rate",
    "weight_decay",
    "warmup_ratio",
    "drop_path",
    "init",
    "head_init",
)
"""What a trial may set besides its method's settings. All else is common to a sweep."""
_SPELLINGS = {"lr": "learning_rate", "head_lr": "head_rate"}
_SPELT = {name: spelling for spelling, name in _SPELLINGS.items()}

_EXAMPLE = '{"lora": {"rank": [4, 8], "lr": [0.001, 0.01]}}'

_SCALES = (0.01, 0.1, 1.0, 10.0, 100.0)
_PAPER: dict[str, Settings] = {
    EVERY: {"learning_rate": (1e-3, 1e-2), "weight_decay": (1e-4, 1e-3)},
    "linear": {},
    "full": {},
    "bitfit": {},
    "layernorm": {},
    "difffit": {},
    "ssf": {},
    "vpt_shallow": {"prompts": (5, 10, 50, 100, 200)},
    "vpt_deep": {"prompts": (5, 10, 50, 100)},
    "pfeiffer": {"start": ("lora_xavier",), "scale": _SCALES[:4], "rank": (4, 8, 16, 32, 64)},
    "houlsby": {"scale": _SCALES[:4], "rank": (4, 8, 16, 32)},
    "adaptformer": {"scale": (0.05, 0.1, 0.2), "rank": (4, 16, 32)},
    "repadapter": {"scale": (0.1, 0.5, 1.0, 5.0, 10.0), "rank": (8, 16, 32)},
    "convpass": {"scale": _SCALES, "rank": (8, 16), "xavier_conv": (True, False)},
    "lora": {"rank": (1, 8, 16, 32)},
    "fact_tt": {"scale": _SCALES, "rank": (8, 16, 32)},
    "fact_tk": {"scale": _SCALES, "rank": (16, 32, 64)},
}
_ALIKE: dict[str, Settings] = {
    "dora": _PAPER["lora"],
    "vera": {"rank": (64, 256, 1024), "learning_rate": (1e-2, 1e-1), "head_rate": (1e-3,)},
    "ia3": {"learning_rate": (1e-2, 1e-1), "head_rate": (1e-3,)},
}
"""Methods that the study did not try. Vectors alone take ten times the rates of matrices."""

_AROUND, _UP, _WIDE = (0.5, 2.0), (1.0, 4.0), (0.3, 1.0, 3.0, 10.0)
_SMALL: dict[str, Settings] = {
    EVERY: {FACTOR: (0.5, 1.0, 2.0, 4.0)},
    "linear": {FACTOR: _WIDE},
    "full": {FACTOR: _WIDE},
    "selective": {FACTOR: _WIDE},
    "vpt_shallow": {"prompts": (5, 20), FACTOR: _UP},
    "vpt_deep": {"prompts": (5, 20), FACTOR: _UP},
    "vqt": {"prompts": (5, 20), FACTOR: _UP},
    "pfeiffer": {"rank": (16, 64), FACTOR: _AROUND},
    "houlsby": {"rank": (32,), "scale": (0.01, 0.1), FACTOR: _AROUND},
    "adaptformer": {"scale": (0.1, 0.2), FACTOR: _UP},
    "repadapter": {"scale": (0.1, 1.0), FACTOR: _AROUND},
    "convpass": {"scale": (0.1, 1.0), FACTOR: _UP},
    "lora": {"rank": (4, 16), FACTOR: _AROUND},
    "dora": {"rank": (4, 16), FACTOR: _AROUND},
    "vera": {"rank": (64, 256), FACTOR: _UP},
    "fact_tt": {"rank": (32,), "scale": (0.1, 1.0), FACTOR: _AROUND},
    "fact_tk": {"rank": (32,), "scale": (0.01, 0.1), FACTOR: _AROUND},
}


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A grid by its name: `paper`, `small` or the file that it was read from."""

    name: str
    methods: Mapping[str, Settings]

    def settings(self, method: str) -> Settings:
        """The values of each setting that is varied for a method; its own replace those for every method.

        Raises:
            InvalidInput: The grid does not have the method, or has no setting for it.
        """
        if method not in self.methods and EVERY not in self.methods:
            raise InvalidInput(
                f"grid {self.name} has no trials of {method}",
                field="grid",
                remedy=f'add "{method}" to it, or "{EVERY}" for every method',
            )
        every, own = self.methods.get(EVERY, {}), self.methods.get(method, {})
        rates = {"learning_rate", FACTOR}
        hidden = rates if rates & own.keys() else set()
        found = dict(own) | {k: v for k, v in every.items() if k not in own and k not in hidden}
        if not found:
            raise InvalidInput(
                f"grid {self.name} has nothing to try for {method}",
                field="grid",
                remedy=f"give settings with their values, such as {_EXAMPLE}",
            )
        return found

    def points(self, method: str, most: int | None = None, seed: int = 0) -> list[Point]:
        """The trials of a method: every combination of its settings, in their order, or `most` of them.

        Which of them is decided by the seed alone. As far as the number allows, each value of a setting is
        tried as often as the others, so that a few trials cover the grid.
        """
        settings = self.settings(method)
        if most is None or most >= self.size(method):
            return list(_product(settings))
        return _balanced(settings, most, random.Random(f"{seed}/{method}"))

    def size(self, method: str) -> int:
        """The number of combinations."""
        return prod(len(values) for values in self.settings(method).values())

    def published(self, method: str) -> bool:
        """Whether the study published a grid for the method; only asked of `paper`."""
        return method in _PAPER


PAPER = Grid(name="paper", methods=_PAPER | _ALIKE)
SMALL = Grid(name="small", methods=_SMALL)
NAMED = {grid.name: grid for grid in (SMALL, PAPER)}


def spelling(name: str) -> str:
    """How a grid's file and the command line spell a setting: `lr` for `learning_rate`."""
    return _SPELT.get(name, name)


def grid_of(given: str | Mapping[str, Any]) -> Grid:
    """A grid by its name, from a JSON file, or as it is: `{"lora": {"rank": [4, 8], "lr": [0.001]}}`.

    Raises:
        NotFound: It names a method that does not exist.
        InvalidInput: There is no such grid or file; it is empty, or names a setting that does not exist.
    """
    if not isinstance(given, str):
        return Grid(name="given", methods=_checked(given, "the grid"))
    text = given
    if text in NAMED:
        return NAMED[text]
    path = Path(text)
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InvalidInput(
            f"there is no grid and no file {text!r}",
            field="grid",
            remedy=near(text, NAMED) or f"use {', '.join(NAMED)} or a JSON file",
        ) from None
    except OSError as error:
        raise InvalidInput(f"{text} cannot be read ({error.strerror})", field="grid") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(f"{text} is not JSON: {error}", field="grid", remedy=f"write {_EXAMPLE}") from None
    return Grid(name=path.name, methods=_checked(document, text))


def chosen_methods(names: Sequence[str]) -> list[str]:
    """The methods that a user names, each once; `all` is every method that is trained.

    Raises:
        NotFound: There is no such method; names near ones.
        InvalidInput: There are none, or one is not trained.
    """
    known = summaries.names()
    chosen: list[str] = []
    for name in (part.strip().replace("-", "_") for text in names for part in text.split(",")):
        if name == "all":
            chosen += known
        elif name:
            summaries.get(name)
            if name not in known:
                raise InvalidInput(
                    f"{name} is made of trained adapters and not trained itself",
                    field="methods",
                    remedy="leave it out",
                )
            chosen.append(name)
    if not chosen:
        raise InvalidInput(
            "no method is named", field="methods", remedy="name some, such as lora ssf, or all"
        )
    return list(dict.fromkeys(chosen))


def _product(settings: Settings) -> Iterator[Point]:
    for values in itertools.product(*settings.values()):
        yield dict(zip(settings, values, strict=True))


def _balanced(settings: Settings, most: int, order: random.Random) -> list[Point]:
    """A Latin hypercube over the values; draws that are there already are replaced by ones that are not."""
    points: list[Point] = []
    columns = {name: order.sample(values, len(values)) for name, values in settings.items()}
    for name, values in columns.items():
        columns[name] = order.sample([values[i % len(values)] for i in range(most)], most)
    for row in range(most):
        point = {name: column[row] for name, column in columns.items()}
        if point not in points:
            points.append(point)
    rest = [point for point in _product(settings) if point not in points]
    return points + order.sample(rest, most - len(points))


def _checked(document: object, source: str) -> dict[str, Settings]:
    if not isinstance(document, Mapping) or not all(isinstance(e, Mapping) for e in document.values()):
        raise InvalidInput(
            f"{source} is not an object with an object of settings for each method",
            field="grid",
            remedy=f"write {_EXAMPLE}",
        )
    if not document:
        raise InvalidInput(f"{source} is empty", field="grid", remedy='name methods, such as "lora", or "*"')
    return {
        name if name == EVERY else chosen_methods([name])[0]: _settings(name, entry, source)
        for name, entry in document.items()
    }


def _settings(method: str, entry: Mapping[str, object], source: str) -> Settings:
    summary = None if method == EVERY else summaries.get(method.replace("-", "_"))
    settings: dict[str, tuple[Value, ...]] = {}
    for given, values in entry.items():
        name = _SPELLINGS.get(spelt := given.replace("-", "_"), spelt)
        _check_name(name, summary, source)
        several: list[Any] = [*values] if isinstance(values, list | tuple) else [values]
        if not several:
            raise InvalidInput(
                f"{source} has no values for {given} of {method}",
                field="grid",
                remedy="give one or more, or leave the setting out",
            )
        for value in several:
            if not isinstance(value, bool | int | float | str):
                raise InvalidInput(
                    f"{source}: {given} of {method} cannot be {value!r}",
                    field="grid",
                    remedy="give numbers, texts, true or false",
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidInput(
                    f"{source}: {given} of {method} is not a finite number ({value})",
                    field="grid",
                    remedy="give another one, or leave it out",
                )
        settings[name] = tuple(dict.fromkeys(several))
    if {"learning_rate", FACTOR} <= settings.keys():
        raise InvalidInput(
            f"{source} has both lr and {FACTOR} for {method}", field="grid", remedy="give one of them"
        )
    return settings


def _check_name(name: str, summary: Summary | None, source: str) -> None:
    own = [setting.name for setting in summary.settings] if summary else []
    if name not in (*RECIPE, *own):
        known = [*own, *map(spelling, RECIPE)]
        whose = f"of {summary.name}" if summary else "that every method has"
        raise InvalidInput(
            f"{source}: there is no setting {name!r} {whose} to vary",
            field="grid",
            remedy=near(name, known) or f"use one of {', '.join(known)}",
        )
