"""search_squad: the settings of a search, its rounds, which settings go on."""
from __future__ import annotations

import pytest

from scripts.sweep_squad import SweepConfig, search_squad

LISTS = dict(checkpoints="x", learning_rates="1e-4,2e-4,1e-4", batch_sizes="16,32", layerwise_lr_decays="0.8,1.0")


def test_a_grid_has_every_combination_once_in_the_order_of_the_lists():
    settings = search_squad.settings_of(SweepConfig(**LISTS))
    assert len(set(settings)) == len(settings) == 2 * 2 * 2
    assert settings[1] == (("learning_rate", "1e-4"), ("batch_size", "16"), ("layerwise_lr_decay", "1.0"))
    assert search_squad.words_of(settings[1]) == ["--learning_rate=1e-4", "--batch_size=16", "--layerwise_lr_decay=1.0"]
    assert search_squad.folder_of(settings[1]) == "lr1e-4_batch16_decay1.0"
    assert len({search_squad.folder_of(setting) for setting in settings}) == 8
    assert search_squad.settings_of(SweepConfig(checkpoints="x")) == [()]


def test_trials_are_a_random_part_of_the_grid_by_the_seed():
    grid = search_squad.settings_of(SweepConfig(**LISTS))
    taken = [search_squad.settings_of(SweepConfig(**LISTS, trials=3, trials_seed=seed)) for seed in (0, 0, 1, 2)]
    assert taken[0] == taken[1] and len({tuple(part) for part in taken}) > 1
    for part in taken:
        assert len(part) == 3 and part == [setting for setting in grid if setting in part]
    assert search_squad.settings_of(SweepConfig(**LISTS, trials=9)) == grid


@pytest.mark.parametrize("halving, max_steps, candidates, rounds", [
    (0, 100, 12, [0]), (2, 40, 4, [10, 20, 40]), (3, 900, 12, [100, 300, 900]), (3, 900, 2, [900]),
    (2, 3, 100, [1, 2, 3]), (10, 1000, 10, [100, 1000])])
def test_rounds_end_with_all_updates_and_few_candidates(halving, max_steps, candidates, rounds):
    assert search_squad.rounds_of(halving, max_steps, candidates) == rounds


def test_the_best_by_the_median_over_seeds_go_on():
    groups = {name: [{"F1": f1} for f1 in values] for name, values in {
        "lucky": (1.0, 2.0, 90.0), "good": (50.0, 60.0, 55.0), "fair": (40.0, 30.0, 45.0), "also": (40.0,)}.items()}
    assert search_squad.promoted(groups, 2) == ["good", "fair"]
    assert search_squad.promoted(groups, 3) == ["good", "fair"]
    assert search_squad.promoted(groups, 10) == ["good"]


def test_a_round_replaces_the_updates_of_the_one_before():
    setting = (("learning_rate", "1e-4"), ("max_steps", "10"))
    assert search_squad.with_steps(setting, 20) == (("learning_rate", "1e-4"), ("max_steps", "20"))
    assert search_squad.with_steps(setting[:1], 0) == setting[:1]


@pytest.mark.parametrize("changes, part", [
    (dict(learning_rates="1e-4,high"), "--learning_rates=1e-4,high"), (dict(trials=3), "--trials"),
    (dict(halving=2), "--halving"), (dict(halving=1, batch_sizes="1,2"), "--halving=1"),
    (dict(batch_sizes="16,"), "--batch_sizes=16,")])
def test_lists_that_make_no_search_are_refused(changes, part, refuses):
    assert part in refuses(SweepConfig, checkpoints="x", **changes)


def test_the_plot_shows_seeds_range_and_median_and_the_best_on_top(tmp_path):
    rows = [{"run": "base", "checkpoint": "ckpt-1", "setting": {"learning_rate": rate}, "F1": f1}
            for rate, values in (("1e-4", (50.0, 60.0)), ("4e-4", (5.0, 7.0)), ("2e-4", (70.0,))) for f1 in values]
    search_squad.plot(rows, str(tmp_path / "sweep.png"))
    assert (tmp_path / "sweep.png").stat().st_size > 5000
