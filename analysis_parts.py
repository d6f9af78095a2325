"""What the error analyses of answers (analysis.py) and of other tasks (task_analysis.py) share: intervals, McNemar's
test, calibration, files.

Intervals are 95% bootstrap intervals over examples (Efron 1979; 2,000 resamples, seed 0, of the differences where runs
are compared). Calibration: the expected calibration error of Naeini et al. 2015.
"""
from __future__ import annotations

import contextlib
import json
import os
from typing import Callable, List, Sequence, Tuple

import numpy as np
from absl import logging

import configuration
import files
import page
import squad_utils
from page import Markup, Section

RESAMPLES = 2000
WORST = 50
BINS = 10  # of the calibration, as in results.json

# --- Statistics ---


def percent(values: Sequence[float]) -> float:
    return 100.0 * float(np.mean(values)) if len(values) else 0.0


def interval(values: Sequence[float]) -> List[float]:
    """The bootstrap interval of a mean, in percent."""
    values, random = np.asarray(values, float), np.random.default_rng(0)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    return bounds_of(100.0 * np.array(means))


def interval_of(score: Callable[[np.ndarray], np.ndarray], *statistics: np.ndarray) -> List[float]:
    """The bootstrap interval of a score that follows from sums over examples, or of the difference of two runs.

    Args:
        score: sums [resamples, k] -> [resamples].
        statistics: what is summed, [examples, k], of the run; or of the first run and the second, whose score minus the
            first one's counts.
    """
    random, count = np.random.default_rng(0), len(statistics[0])
    found = []
    for first in range(0, RESAMPLES, 100):
        times = random.multinomial(count, np.full(count, 1 / count), size=min(100, RESAMPLES - first))
        scores = [score(times @ rows) for rows in statistics]
        found.append(scores[-1] - scores[0] if len(scores) > 1 else scores[0])
    return bounds_of(np.concatenate(found))


def bounds_of(values: np.ndarray) -> List[float]:
    return [round(float(bound), 3) for bound in np.percentile(values, (2.5, 97.5))]


def in_brackets(bounds: Sequence[float]) -> str:
    return f"95% interval {bounds[0]:.1f} to {bounds[1]:.1f}"


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided exact p value: the examples that only one run has right, as tosses of a fair coin."""
    tosses, term, total = only_first + only_second, 1, 0
    for successes in range(min(only_first, only_second) + 1):
        total += term
        term = term * (tosses - successes) // (successes + 1)
    return min(1.0, 2 * total / 2**tosses)


def fifths(lengths: Sequence[int]) -> Callable[[int], str]:
    """Names a length by its fifth: five groups of about equal size."""
    bounds = np.unique(np.percentile(lengths, (0, 20, 40, 60, 80, 100)))

    def name(length: int) -> str:
        place = int(np.searchsorted(bounds[1:-1], length, side="left"))
        low, high = bounds[place], bounds[min(place + 1, len(bounds) - 1)]
        return f"{int(low)}–{int(high)}"

    return name


# --- Calibration ---


def calibration_bins(probability: Sequence[float], right: Sequence[float]
                     ) -> Tuple[List[Tuple[float, float, int]], float]:
    """By bin of the probability, its mean and the share of right ones, in percent, and their number; and the expected
    calibration error, 0 to 1."""
    probability, right = np.asarray(probability, float), np.asarray(right, float)
    if not len(probability):
        return [], 0.0
    number = np.minimum((probability * BINS).astype(int), BINS - 1)
    bins = [(round(percent(probability[number == bin]), 3), round(percent(right[number == bin]), 3),
             int(np.sum(number == bin))) for bin in np.unique(number)]
    return bins, squad_utils.expected_calibration_error(probability, right, BINS)


def calibration_section(intro: str, bins: Sequence[Tuple[float, float, int]], score: str, unit: str) -> Section:
    """The section on `calibration_bins`. score: what right ones are called; unit: of the counts."""
    if not bins:
        return Section("Calibration", [page.paragraph(intro)])

    def draw(axes):
        axes.plot([0, 100], [0, 100], color=page.SERIES[2], linestyle="--", linewidth=1)
        axes.plot([row[0] for row in bins], [row[1] for row in bins], color=page.SERIES[0], marker="o")
        axes.set(xlabel="probability, %", ylabel=f"{score}, %", xlim=(0, 102), ylim=(0, 102))

    rows = [(f"{probability:.1f}", page.bar(share), str(count)) for probability, share, count in bins]
    name = score[0].upper() + score[1:]
    return Section("Calibration", [page.paragraph(intro), page.columns(
        page.plot(draw, f"{name} by probability; the table has the values.",
                  f"{name} by probability, in bins of equal width; dashed: perfect calibration.", "calibration"),
        page.table("By probability", ("mean probability, %", score, unit), rows))])


# --- Pages and files ---


def marked(text: str, spans: Sequence[Tuple[str, Tuple[int, int]]], around: int = 400) -> Markup:
    """A text around spans (CSS class, place), which are marked; what is far from them is left out."""
    low = max(0, min((span[0] for _, span in spans), default=0) - around)
    high = min(len(text), max((span[1] for _, span in spans), default=0) + around)
    if high - low > 6 * around:  # far apart: both ends
        high = low + 6 * around
    bounds = sorted({low, high, *(min(max(bound, low), high) for _, span in spans for bound in span)})
    parts: List[str] = ["… " if low else ""]
    for start, end in zip(bounds, bounds[1:]):
        names = list(dict.fromkeys(name for name, span in spans if span[0] <= start and end <= span[1]))
        parts.append(page.element("mark", text[start:end], class_=" ".join(names), title=" and ".join(names)) if names
                     else text[start:end])
    return page.join([*parts, " …" if high < len(text) else ""])


LEGEND = page.element("p", "Marked: ", page.element("mark", "gold", class_="gold"), " ",
                      page.element("mark", "predicted", class_="predicted"), " ",
                      page.element("mark", "both", class_="gold predicted"))


def write(folder: str, name: str, text: str, content: dict) -> str:
    """<name>.html and <name>.json. Returns: the path of the page. Raises: OSError."""
    path = os.path.join(folder, f"{name}.html")
    files.write_text(path, text)
    files.write_text(os.path.join(folder, f"{name}.json"), json.dumps(content, indent=1) + "\n")
    return path


@contextlib.contextmanager
def only_warning():
    """What keeps an analysis from being written after an evaluation is only a warning."""
    try:
        yield
    except OSError as error:
        logging.warning("warning: the error analysis could not be written (%s).", configuration.in_short(error))
