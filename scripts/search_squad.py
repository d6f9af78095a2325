"""The search of scripts/sweep_squad.py: which settings are fine-tuned, which go on, which one wins.

Settings are a grid of lists, or `--trials` random points of it (Bergstra & Bengio 2012). With `--halving=N`, successive
halving (Jamieson & Talwalkar 2016): all settings are fine-tuned for a fraction of --max_steps, the best of each N are
fine-tuned again, from the start and N times as long, until the last ones get all of --max_steps. The schedule of the
learning rate ends with the updates of each round, so that a short run is a whole one.
"""
from __future__ import annotations

import itertools
import math
import random
import statistics
from typing import Dict, List, Sequence, Tuple

from sweep_recipe import SEARCHED, SweepConfig

import curves

Setting = Tuple[Tuple[str, str], ...]  # options of electra_squad.sh and their values
SHORT = {"learning_rate": "lr", "batch_size": "batch", "epochs": "epochs", "layerwise_lr_decay": "decay",
         "max_steps": "steps"}
MOST_SHOWN = 40  # settings in a plot


def settings_of(config: SweepConfig) -> List[Setting]:
    """The settings to try, in the order of the lists; one empty setting without lists."""
    lists = [[(name, value) for value in dict.fromkeys(getattr(config, plural).split(","))]
             for plural, name in SEARCHED.items() if getattr(config, plural)]
    grid = list(itertools.product(*lists))
    if config.trials and config.trials < len(grid):
        kept = random.Random(config.trials_seed).sample(range(len(grid)), config.trials)
        grid = [grid[index] for index in sorted(kept)]
    return grid


def rounds_of(halving: int, max_steps: int, candidates: int) -> List[int]:
    """The updates of each round; [0] without halving."""
    if not halving:
        return [0]
    more = 0
    while halving ** (more + 1) <= candidates:
        more += 1
    return list(dict.fromkeys(max(1, round(max_steps / halving ** (more - number))) for number in range(more + 1)))


def with_steps(setting: Setting, steps: int) -> Setting:
    """The setting in a round of so many updates; 0: as it is."""
    kept = tuple(entry for entry in setting if entry[0] != "max_steps")
    return (*kept, ("max_steps", str(steps))) if steps else setting


def words_of(setting: Setting) -> List[str]:
    return [f"--{name}={value}" for name, value in setting]


def folder_of(setting: Setting) -> str:
    return "_".join(f"{SHORT[name]}{value}" for name, value in setting)


def label_of(row: dict) -> str:
    """The setting of a row, such as `lr 1e-4 batch 16`; empty where it has none."""
    return " ".join(f"{SHORT[name]} {value}" for name, value in row.get("setting", {}).items())


def median_f1(rows: Sequence[dict]) -> float:
    return statistics.median(row["F1"] for row in rows)


def promoted(groups: Dict[object, List[dict]], halving: int) -> List[object]:
    """The best of the candidates by the median of F1 over their seeds: one in `halving`, at least one."""
    ranked = sorted(groups, key=lambda candidate: -median_f1(groups[candidate]))  # equal ones keep their order
    return ranked[:math.ceil(len(ranked) / halving)]


def plot(rows: List[dict], png: str):
    """F1 of every setting: its seeds as points, their range and median, the best on top. Raises: OSError."""
    groups: Dict[str, List[float]] = {}
    several = len({(row["run"], row["checkpoint"]) for row in rows}) > 1
    for row in rows:
        label = f"{row['run']} {row['checkpoint']} {label_of(row)}" if several else label_of(row)
        groups.setdefault(label or "defaults", []).append(row["F1"])
    ranked = sorted(groups, key=lambda label: statistics.median(groups[label]))[-MOST_SHOWN:]
    with curves.saved_figure(png, figsize=(8, 1.5 + 0.28 * len(ranked))) as figure:
        axis = figure.subplots()
        for place, label in enumerate(ranked):
            values = groups[label]
            axis.plot([min(values), max(values)], [place, place], color="tab:blue", alpha=0.4)
            axis.plot(values, [place] * len(values), "o", color="tab:blue", markersize=4)
            axis.plot([statistics.median(values)], [place], "|", color="tab:orange", markersize=14, markeredgewidth=2)
        axis.set_yticks(range(len(ranked)), ranked, fontsize=8)
        axis.set(xlabel="F1 (points: seeds, bar: median)", title="SQuAD by setting", ylim=(-0.7, len(ranked) - 0.3))
        axis.grid(axis="x", alpha=0.3)
