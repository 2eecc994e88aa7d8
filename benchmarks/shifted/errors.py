"""How far estimates of accuracy are off, by method, domain and size of the window."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from benchmarks.shifted.grid import Grid
from benchmarks.shifted.windows import Window
from serving.monitor.estimates import METHODS

HEADLINE, TRUSTED = "median", "median, trusted"
"""The headline wherever there is one, and where the evaluator says to trust it."""
MILD, LARGE = 0.05, 0.20
"""Falls of accuracy below which a shift is called mild, and above which large."""
GROUPS = ("none", "mild", "middle", "large")


def said(window: Window, method: str) -> float | None:
    """How far a method is above the truth; None where it says nothing."""
    if method not in (HEADLINE, TRUSTED):
        return window.error(method)
    headline = window.headline
    if headline is None or (method == TRUSTED and not headline.trusted):
        return None
    return headline.value - window.truth


def group(drop: float, *, shifted: bool) -> str:
    """What a fall of accuracy is called."""
    if not shifted:
        return "none"
    return "mild" if drop <= MILD else "middle" if drop <= LARGE else "large"


def points(errors: Iterable[float | None]) -> str:
    """The mean absolute error in points, with its 95 % interval; how often there was one, if not always."""
    every = list(errors)
    found = 100 * np.abs([one for one in every if one is not None])
    if not len(found):
        return "-"
    text = f"{found.mean():.1f}"
    if len(found) > 1:
        text += f" ± {1.96 * found.std(ddof=1) / math.sqrt(len(found)):.1f}"
    share = len(found) / len(every)
    return text if share == 1 else f"{text} ({share:.0%})"


def by_domain(windows: Sequence[Window], accuracies: dict[str, float], title: str) -> Grid:
    """One row for each domain, all windows of one size; accuracies are of the pools that were drawn from."""
    first = next(iter(accuracies.values()))
    rows = []
    for domain, accuracy in accuracies.items():
        own = [one for one in windows if one.domain == domain]
        shown = [points(said(one, method) for one in own) for method in (HEADLINE, TRUSTED, *METHODS)]
        rows.append((domain, f"{100 * accuracy:.1f}", f"{100 * (first - accuracy):.1f}", *shown))
    return Grid(title=title, columns=("domain", "accuracy", "drop", HEADLINE, TRUSTED, *METHODS), rows=rows)


def by_size(windows: Sequence[Window], group_of: Callable[[str], str], title: str) -> Grid:
    """One row for each method, a column for each size of window and group of domains."""
    sizes = sorted({one.images for one in windows})
    groups = [one for one in GROUPS if any(group_of(w.domain) == one for w in windows)]
    rows = []
    for method in (HEADLINE, TRUSTED, *METHODS):
        cells = [
            points(said(w, method) for w in windows if w.images == size and group_of(w.domain) == one)
            for one in groups
            for size in sizes
        ]
        rows.append((method, *cells))
    columns = tuple(f"{one}, {size}" for one in groups for size in sizes)
    return Grid(title=title, columns=("method", *columns), rows=rows)


def lines(windows: Sequence[Window], group_of: Callable[[str], str], title: str) -> Grid:
    """The R^2 of the agreement line, by route, group and size of window."""
    rows = []
    for route in dict.fromkeys(one.route for one in windows):
        for name in GROUPS:
            for size in sorted({one.images for one in windows}):
                own = [
                    w for w in windows if (w.route, w.images) == (route, size) and group_of(w.domain) == name
                ]
                r2 = [one.line.r2 for one in own if one.line is not None]
                if not r2:
                    continue
                low, middle, high = np.percentile(r2, [5, 50, 95])
                used = [one for one in own if one.line is not None and one.line.used]
                rows.append(
                    (
                        route,
                        name,
                        str(size),
                        f"{middle:.2f} ({low:.2f} to {high:.2f})",
                        f"{len(used) / len(own):.0%}",
                        points(said(one, "aline_s") for one in used),
                        points(said(one, "aline_s") for one in own),
                        points(said(one, "slope1") for one in own),
                    )
                )
    columns = ("route", "shift", "images", "R²", "used", "aline_s where used", "aline_s", "slope1")
    return Grid(title=title, columns=columns, rows=rows)
