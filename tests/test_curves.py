"""curves: points thinned without losing spikes, means over intervals, figures."""
from __future__ import annotations

import math
import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import pytest
from support import ROOT

import curves
from curves import Metric

TABLE = (Metric("generator_loss", "generator {:.4f}", "gen {generator_loss:.2f}", panel="generator loss"),
         Metric("generator_accuracy", "accuracy {:.1%}"),
         Metric("learning_rate", "rate {:.2e}", panel="learning rate", is_mean=False))


@pytest.mark.parametrize("count", [1, 5, 1999, 2000, 2001, 9999, 100_000])
def test_a_series_is_thinned_to_a_bounded_number_of_points_and_keeps_spikes(count):
    rng = np.random.default_rng(count)
    values = rng.normal(size=count)
    spike, dip = int(rng.integers(count)), int(rng.integers(count))
    values[spike], values[dip] = 50.0, -50.0
    series = curves.Series()
    for step, value in enumerate(values):
        series.add(curves.Point(step, float(value)))
    series.add(curves.Point(count, math.nan))
    points = [(point.step, point.value) for point in series.points()]
    assert len(points) == count if count < curves.Series.LIMIT else len(points) <= curves.Series.LIMIT + 1
    assert points == sorted(points) and all(values[step] == value for step, value in points)
    assert (dip, -50.0) in points and ((spike, 50.0) in points or spike == dip)
    assert points[0][0] <= count / 500 and points[-1][0] >= count - 1 - count / 500  # evenly, to both ends


def entries(means, log_every=10, first=1):
    """Training entries of values by update, of which the first is none, as `training.run_updates` logs them."""
    done, last = first - 1, len(means) - 1
    for step in range(first, last + 1):
        if step <= first + 1 or step % log_every == 0 or step == last:
            yield {"step": step, "kind": "train", "generator_loss": sum(means[done + 1:step + 1]) / (step - done),
                   "learning_rate": means[step]}
            done = step


def curves_of(*runs):
    made = curves.Curves(TABLE)
    for run in runs:
        for entry in run:
            made.add(entry)
    return made


def drawn_points(made, name="generator_loss"):
    return [[(point.middle, point.value) for point in points]
            for points in curves.split_intervals(made.series["train", name].points())]


@pytest.mark.parametrize("count, line, short", [(1, [1], []), (2, [1, 2], []), (11, [6.5], [1, 2, 11]),
                                                (25, [6.5, 15.5, 23], [1, 2])])
def test_means_over_few_updates_are_not_part_of_the_line(count, line, short):
    """Of a loss that falls evenly the line falls evenly: each mean is drawn at the middle of its interval."""
    drawn = drawn_points(curves_of(entries([100.0 - step for step in range(count + 1)])))
    assert [[middle for middle, _ in points] for points in drawn] == [line, short]
    assert all(value == pytest.approx(100 - middle) for points in drawn for middle, value in points)


def test_noise_of_one_batch_makes_no_cliff_at_the_start_the_end_or_a_resume():
    rng = np.random.default_rng(3)
    values = (5 + rng.normal(size=432)).tolist()
    resumed = curves_of(entries(values[:251], 50), entries(values, 50, first=251))
    line, short = drawn_points(resumed)
    assert [middle for middle, _ in short] == [1, 2, 251, 252] and len(line) == 9
    steps = np.diff([value for _, value in line])
    assert np.abs(steps).max() < 1 < np.abs(np.diff(values)).max()
    rates, none = drawn_points(resumed, "learning_rate")  # not means: all of them, where they were
    assert not none and rates[:3] == [(step, values[step]) for step in (1, 2, 50)] and len(rates) == 13


@pytest.mark.parametrize("low, high, least, expected", [
    (20, 20, 0.0, (0, 40)), (-3, -3, 0.05, (-6, 0)), (0, 0, 0.05, (0, 1)), (0, 100, 0.05, (-5, 105)),
    (99.9, 100, 0.1, (94.95, 104.95))])
def test_axes_around_one_value_start_at_zero_and_around_close_ones_are_wide(low, high, least, expected):
    assert curves.limits(low, high, least) == pytest.approx(expected)


def test_lone_points_are_marked_and_their_axes_start_at_zero(tmp_path, monkeypatch):
    import matplotlib.figure
    figures = []

    def savefig(self, path, **_):
        pathlib.Path(path).touch()
        figures.append(self)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    curves.plot_curves(curves_of([{"step": 20, "kind": kind, "generator_loss": 8.3} for kind in ("train", "eval")]),
                       str(tmp_path / "one.png"), "a run")
    axis = figures[0].axes[0]
    assert axis.get_xlim() == (0, 21) and axis.get_ylim() == pytest.approx((0, 16.6))
    assert [line.get_marker() for line in axis.lines] == ["o", "o"]
    assert [text.get_text() for text in figures[0].legends[0].get_texts()] == ["training", "held out"]


TITLES = ["ELECTRA cost$_{1$, phase 1", "ELECTRA $x$ \\$", "ELECTRA 日本語", "ELECTRA caf\udce9", "_", "x" * 300]


@pytest.mark.parametrize("title", TITLES)
def test_titles_are_drawn_as_they_are_without_a_word(tmp_path, monkeypatch, caplog, capfd, title):
    import matplotlib.mathtext
    monkeypatch.setattr(matplotlib.mathtext.MathTextParser, "parse", lambda *_, **__: pytest.fail("a formula"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curves.plot_curves(curves_of(entries([1.0] * 12)), str(tmp_path / "c.png"), title)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG") and not caplog.text
    assert capfd.readouterr() == ("", "")


def test_a_computer_without_a_home_draws_without_a_word(tmp_path):
    """matplotlib keeps its cache in the home folder."""
    program = "import curves, sys; curves.plot_curves(curves.Curves(()), 'x', 't')\n" \
              "with curves.saved_figure(sys.argv[1], figsize=(1, 1)) as figure: figure.subplots()"
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    ran = subprocess.run([sys.executable, "-c", program, str(tmp_path / "c.png")], cwd=ROOT, text=True,
                         capture_output=True, env={**environment, "HOME": "/dev/null"}, timeout=120)
    assert ran.returncode == 0 and "atplotlib" not in ran.stderr and (tmp_path / "c.png").exists()
