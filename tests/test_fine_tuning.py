"""fine_tuning.py: what every fine-tuning does. Whole runs are in test_run_tf_squad.py and test_run_tf_tasks.py."""
import pytest

import fine_tuning
import modeling
import run_tf_tasks
from electra_config import ElectraConfig
from task_options import TaskConfig

ENCODER = ElectraConfig(vocab_size=30, embedding_size=8, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=16)


@pytest.mark.parametrize("task", [run_tf_tasks.Sequences("single_label"), run_tf_tasks.Tagging()])
def test_learning_rates_fall_from_the_head_to_the_embeddings(task):
    """ELECTRA, appendix B: with 3 layers, decay ** 2 for the top one, ** 4 for the lowest, ** 5 for the embeddings."""
    model = modeling.SequenceClassification(ENCODER, 2)
    config = TaskConfig(task="classification", do_train=True, train_file="a.csv", output_dir="out", learning_rate=1.0,
                        layerwise_lr_decay=0.5)
    optimizer = fine_tuning.make_optimizer(task, config, model, 10)
    names = [variable.name for variable in model.trainable_variables]

    def rates(part):
        return {rate for name, rate in zip(names, optimizer.multipliers) if part in name}

    assert rates("classifier/") == {1.0}
    assert [rates(f"/layer_{number}/") for number in range(3)] == [{0.5 ** 4}, {0.5 ** 3}, {0.5 ** 2}]
    assert rates("/embeddings") == {0.5 ** 5}
