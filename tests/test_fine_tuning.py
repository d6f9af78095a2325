"""fine_tuning: the lengths of batches of a prediction, and its timing. The rest is tested with the commands."""
from __future__ import annotations

import dataclasses
import types

import numpy as np

import fine_tuning
import squad_utils
from electra_config import ElectraConfig
from run_tf_squad import SQUAD
from squad_options import SquadConfig
from workers import ALONE


def test_large_predictions_on_cpu_have_finer_lengths(monkeypatch):
    config = SquadConfig(do_train=True, output_dir="o", data_dir="d", max_seq_length=300)
    windows = types.SimpleNamespace(lengths=np.full(1000, 200))

    def lengths(config):
        return fine_tuning.prediction_lengths(SQUAD, config, ElectraConfig.of_size("base"), windows)

    assert lengths(config) == config.buckets  # 15 TFLOP
    monkeypatch.setattr(fine_tuning, "LARGE_PREDICTION", 1e13)
    assert lengths(config) == [*range(32, 300, 32), 300]
    assert lengths(dataclasses.replace(config, length_buckets="128", beam_size=40))[:2] == [64, 96]
    for changes in (dict(length_buckets="300"), dict(device="hpu")):  # all windows padded alike; graphs that are slow
        changed = dataclasses.replace(config, **changes)
        assert lengths(changed) == changed.buckets


def test_batches_that_trace_are_computed_once_and_not_timed():
    config = SquadConfig(do_train=True, output_dir="o", data_dir="d", max_seq_length=8, length_buckets="4",
                         predict_batch_size=2, beam_size=1)
    rows = {name: np.arange(9 * 8).reshape(9, 8) for name in squad_utils.NETWORK_INPUTS}
    windows = types.SimpleNamespace(lengths=np.array([3, 8, 3, 4, 7, 2, 3, 4, 1]), **rows)
    computed, seen = [], set()

    class Answers:
        model = types.SimpleNamespace(config=None)
        is_traced = staticmethod(lambda features: features["input_ids"].shape[1] in seen)

        def __call__(self, features):
            computed.append(features["input_ids"].numpy())
            seen.add(features["input_ids"].shape[1])
            return {"first": features["input_ids"][:, 0]}

    for times in (3, 5):  # of the batches [2, 2, 2, 1 and 2 longer]: all but those that traced; then all
        computed.clear()
        outputs, interval = fine_tuning.run_model(SQUAD, config, Answers(), windows, ALONE, None, lengths=[4, 8])
        np.testing.assert_array_equal(outputs["first"], windows.input_ids[:, 0])
        assert len(computed) == 5 and len(interval.latencies) == times
    seen.clear(), computed.clear()
    _, interval = fine_tuning.run_model(SQUAD, config, Answers(), windows, ALONE, None, lengths=[8])
    assert len(computed) == 5 and len(interval.latencies) == 4
    single = types.SimpleNamespace(lengths=np.array([8]), **{name: rows[name][:1] for name in rows})
    seen.clear(), computed.clear()
    _, interval = fine_tuning.run_model(SQUAD, config, Answers(), single, ALONE, None, lengths=[8])
    assert len(computed) == 2 and len(interval.latencies) == 1  # something is timed
