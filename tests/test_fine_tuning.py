"""fine_tuning.py: what every fine-tuning does. Whole runs are in test_run_tf_squad.py and test_run_tf_tasks.py."""
from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest

import fine_tuning
import modeling
import run_tf_squad
import squad_utils
from electra_config import ElectraConfig
from squad_options import SquadConfig
from task_options import TaskConfig
from workers import ALONE

ENCODER = ElectraConfig(vocab_size=30, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=16)


@pytest.mark.parametrize("model, head", [(lambda: modeling.SequenceClassification(ENCODER, 2), "classifier/"),
                                         (lambda: modeling.QuestionAnswering(ENCODER), "_logits/")])
def test_learning_rates_fall_from_the_head_to_the_embeddings(model, head):
    """ELECTRA, appendix B: with 3 layers, decay ** 2 for the top one, ** 4 for the lowest, ** 5 for the embeddings.
    The decay and the number of layers were once passed in the wrong order."""
    model = model()
    config = TaskConfig(task="classification", do_train=True, train_file="a.csv", output_dir="out", learning_rate=1.0,
                        layerwise_lr_decay=0.5)
    optimizer = fine_tuning.make_optimizer(config, model, 10)
    names = [variable.name for variable in model.trainable_variables]

    def rates(part):
        return {rate for name, rate in zip(names, optimizer.multipliers) if part in name}

    assert rates(head) == {1.0}
    assert [rates(f"/layer_{number}/") for number in range(3)] == [{0.5 ** 4}, {0.5 ** 3}, {0.5 ** 2}]
    assert rates("/embeddings") == {0.5 ** 5}


def test_a_checkpoint_with_wrong_rates_of_the_layers_is_named_when_it_resumes(caplog):
    def warned(state, *multipliers):
        caplog.clear()
        fine_tuning.warn_of_other_rates(state, types.SimpleNamespace(multipliers=multipliers))
        return "--layerwise_lr_decay" in caplog.text

    assert warned({"config": {}}, 0.5, 1.0)
    assert not warned({"config": {}}, 1.0, 1.0) and not warned({"lowest_multiplier": 0.5}, 0.5, 1.0)


def test_large_predictions_on_cpu_have_finer_lengths(monkeypatch):
    config = SquadConfig(do_train=True, output_dir="o", data_dir="d", max_seq_length=300)
    windows = types.SimpleNamespace(lengths=np.full(1000, 200))

    def lengths(config):
        return fine_tuning.prediction_lengths(run_tf_squad.SQUAD, config, ElectraConfig.of_size("base"), windows)

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
        model = types.SimpleNamespace(joint_head=True)
        is_traced = staticmethod(lambda features: features["input_ids"].shape[1] in seen)

        def __call__(self, features):
            computed.append(features["input_ids"].numpy())
            seen.add(features["input_ids"].shape[1])
            return {"first": features["input_ids"][:, 0]}

    def run_model(windows, lengths):
        return fine_tuning.run_model(run_tf_squad.SQUAD, config, Answers(), windows, ALONE, None, lengths=lengths)

    for times in (3, 5):  # of the batches [2, 2, 2, 1 and 2 longer]: all but those that traced; then all
        computed.clear()
        outputs, interval = run_model(windows, [4, 8])
        np.testing.assert_array_equal(outputs["first"], windows.input_ids[:, 0])
        assert len(computed) == 5 and len(interval.latencies) == times
    seen.clear(), computed.clear()
    _, interval = run_model(windows, [8])
    assert len(computed) == 5 and len(interval.latencies) == 4
    single = types.SimpleNamespace(lengths=np.array([8]), **{name: rows[name][:1] for name in rows})
    seen.clear(), computed.clear()
    _, interval = run_model(single, [8])
    assert len(computed) == 2 and len(interval.latencies) == 1  # something is timed
