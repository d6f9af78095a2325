"""Curves of a run: points thinned to a bounded number, and the figure of all panels."""
from __future__ import annotations

import contextlib
import itertools
import logging as python_logging
import math
import warnings
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import files
from configuration import in_short


class Metric(NamedTuple):
    """One row of a command's table of metrics."""

    name: str  # in the JSON lines and in TensorBoard
    text: str  # format of its value in a log line
    console: str = ""  # what the console's short line says, a format of all metrics by name; without one nothing
    panel: str = ""  # title of its panel among the curves; without one it is not drawn
    is_mean: bool = True  # of the updates of a logged interval; otherwise its value at the last of them



class Point(NamedTuple):
    """A value at a step or, with `updates` above 1, the mean over so many updates that end there."""

    step: int
    value: float
    updates: int = 1

    @property
    def middle(self) -> float:
        return self.step - (self.updates - 1) / 2


class Series:
    """A curve of at most about `limit` points (a multiple of 4), however many are added.

    Beyond that, equal numbers of consecutive points are replaced by the lowest and the highest of them: spikes stay.
    """

    LIMIT = 2000

    def __init__(self, limit: int = LIMIT):
        self.limit = limit
        self._kept: List[Point] = []
        self._width = 1  # points that each bin stands for; it keeps two of them, or the only one
        self._count, self._lowest, self._highest = 0, None, None  # of the bin that is being filled

    def add(self, point: Point):
        if not math.isfinite(point.value):
            return
        if not self._count or point.value < self._lowest.value:
            self._lowest = point
        if not self._count or point.value > self._highest.value:
            self._highest = point
        self._count += 1
        if self._count == self._width:
            self._kept += self._bin()
            self._count = 0
            if len(self._kept) >= self.limit:
                groups = [self._kept[first:first + 4] for first in range(0, len(self._kept), 4)]
                self._kept = [point for group in groups for point in _extremes(group)]
                self._width = 4 if self._width == 1 else 2 * self._width

    def _bin(self) -> List[Point]:
        return [self._lowest] if self._width == 1 else sorted((self._lowest, self._highest))

    def points(self) -> List[Point]:
        """In ascending order of steps."""
        return self._kept + (self._bin() if self._count else [])


def _extremes(points: List[Point]) -> List[Point]:
    return sorted((min(points, key=lambda point: point.value), max(points, key=lambda point: point.value)))


def split_intervals(points: Sequence[Point]) -> Tuple[List[Point], List[Point]]:
    """The means over intervals of about equal length, which make a line, and those over much shorter ones.

    The first two updates of a run are logged one by one, and an interval ends early at a save, an evaluation, a stop or
    the last update. A mean over so few scatters more than its neighbours, and in the line would look like a cliff.
    """
    if not points:
        return [], []
    lengths = sorted(point.updates for point in points)
    typical = next(length for length, total in zip(lengths, itertools.accumulate(lengths)) if 2 * total >= sum(lengths))
    return ([point for point in points if 2 * point.updates >= typical],
            [point for point in points if 2 * point.updates < typical])


class Curves:
    """The series of all metrics, by (kind, name). Those with a panel are drawn by `plot_curves`."""

    MOST = 128  # series; more names come from a damaged log

    def __init__(self, table: Sequence[Metric]):
        self._values = {metric.name for metric in table if not metric.is_mean}
        self.panels = [metric for metric in table if metric.panel]
        self.series: Dict[Tuple[str, str], Series] = {}
        self.last_step = 0
        self._trained: Optional[int] = None  # step of the last training entry

    def add(self, entry: dict):
        """Adds an entry of the log."""
        step, kind = entry["step"], entry["kind"]
        interval = 1
        if kind == "train":
            if self._trained is not None:  # the first logged update is one alone, also of a resumed run
                interval = max(1, step - self._trained)
            self._trained = step
        self.last_step = max(self.last_step, step)
        for name, value in entry.items():
            if name == "step" or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if (kind, name) not in self.series:
                if len(self.series) >= self.MOST:
                    continue
                self.series[kind, name] = Series()
            self.series[kind, name].add(Point(step, value, 1 if name in self._values else interval))


def plot_curves(curves: Curves, png: str, title: str):
    """Draws training and held-out curves: one panel for each metric that was logged.

    Raises: OSError: see `saved_figure`.
    """
    logged = {name for (_, name), series in curves.series.items() if series.points()}
    panels = [metric for metric in curves.panels if metric.name in logged]
    if not panels:
        return
    columns = -(-len(panels) // 2)
    with saved_figure(png, figsize=(3.6 * columns, 5.4)) as figure:
        axes, handles = list(figure.subplots(2, columns, squeeze=False).flat), {}
        for axis, metric in zip(axes, panels):
            for kind, color, label in (("train", "tab:blue", "training"), ("eval", "tab:orange", "held out")):
                series = curves.series.get((kind, metric.name))
                for handle in _draw_series(axis, series.points() if series else [], kind == "eval", color, label):
                    handles.setdefault(handle.get_label(), handle)
            axis.set(title=metric.panel, xlabel="update", xlim=(0, max(1.03 * curves.last_step, curves.last_step + 1)))
            tidy_axes(axis, least_span=0.05)
        for axis in axes[len(panels):]:
            axis.set_visible(False)
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles))
        figure.suptitle(title if len(title) <= 80 else f"{title[:50]} ... {title[-25:]}")


def _draw_series(axis, points: List[Point], always_marked: bool, color: str, label: str) -> list:
    """Draws a line and, fainter, the means over fewer updates. Returns: what the legend explains."""
    line, short = split_intervals(points)
    handles = []
    if line:
        marked = dict(marker="o", markersize=3) if always_marked or len(line) < 30 else {}
        handles += axis.plot([point.middle for point in line], [point.value for point in line], color=color,
                             linewidth=1.5 if always_marked else 0.9, label=label, **marked)
    if short:
        handles += axis.plot([point.middle for point in short], [point.value for point in short], color=color,
                             alpha=0.4, linestyle="", marker=".", markersize=5, label=f"{label}, fewer updates")
    return handles


# --- Figures ---


@contextlib.contextmanager
def saved_figure(png: str, **options):
    """A matplotlib figure to draw on in the block, which is saved when the block ends.

    Texts are literal: a model's name may hold what matplotlib reads as a formula. Characters that its font does not
    have are drawn as boxes, without a warning.

    Args:
        options: of matplotlib's Figure.
    Raises: OSError: the figure could not be drawn or written, whatever the reason: a run does not depend on it.
    """
    python_logging.getLogger("matplotlib").setLevel(python_logging.ERROR)  # notes on its cache and fonts
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Imported here: it takes most of a second, and refusals of bad input should not wait for it.
            from matplotlib.figure import Figure
            from matplotlib.text import Text
            figure = Figure(layout="constrained", **options)
            figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
            yield figure
            for text in figure.findobj(Text):
                text.set_parse_math(False)
                text.set_text(text.get_text().encode("utf-8", "backslashreplace").decode())
            with files.replacing(png) as temporary:
                figure.savefig(temporary, dpi=110, format="png")
    except OSError:
        raise
    except Exception as error:
        raise OSError(None, f"matplotlib: {in_short(error)}") from error


def tidy_axes(axis, least_span: float = 0.02):
    """Whole steps, a grid, and limits of the values (see `limits`) that do not make a cliff of a trifle."""
    from matplotlib.ticker import MaxNLocator
    axis.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.set_ylim(limits(*axis.dataLim.intervaly, least_span))
    axis.grid(alpha=0.3)


def limits(low: float, high: float, least_span: float = 0.0) -> Tuple[float, float]:
    """Limits of an axis for values from `low` to `high`, with a margin. Around a lone value: 0 and twice the value.

    Args:
        least_span: what the axis covers at least, as a fraction of the largest value.
    """
    if low == high:
        return (min(0.0, 2 * low), max(0.0, 2 * high)) if low else (0.0, 1.0)
    margin = max(0.05 * (high - low), (least_span * max(abs(low), abs(high)) - (high - low)) / 2)
    return low - margin, high + margin
