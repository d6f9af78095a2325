"""scripts/electra_tasks.sh: its options, and the command of one fine-tuning, evaluation or prediction.

Only the standard library is used.
"""
from __future__ import annotations

import os

from options import Call, Table, flag, own
from plans import DRY_RUN, ENV, HOSTFILE, MAX_RESTARTS, MIN_WORKERS, WORKERS, Plan, building, workers

import configuration
from task_options import TaskConfig


def tasks_table() -> Table:
    def of(name, *words, **more):
        return flag(TaskConfig, name, *words, **more)

    return Table("""\
usage: bash scripts/electra_tasks.sh [value ...] [--option=value ...]
Fine-tunes ELECTRA on a task of GLUE (--data_dir) or on own data (--train_file, and where there are such files
--dev_file and --test_file), scores it on the development data, and predicts the test data. Switches can be given
without a value.\
""", [
        of("device"),
        of("precision"),
        of("task"),
        of("data_dir", path="input"),
    ], [
        of("train_file", path="input"),
        of("dev_file", path="input"),
        of("test_file", path="input"),
        of("out_dir", "", "output_dir", path="output", meaning="folder for checkpoints, predictions and results "
           "(default: results/<task>)"),
        of("electra_model", path="input"),
        of("init_checkpoint", path="input", environment="init_checkpoint"),
        own("mode", "train_eval", "train, eval, train_eval or prediction (of the test data; the others predict it too "
            "where --test_file names it)", ("train", "eval", "train_eval", "prediction"), also=("do_train",)),
        of("text_column"),
        of("pair_column"),
        of("label_column"),
        of("id_column"),
        of("label_separator"),
        of("labels"),
        of("class_weights"),
        of("dev_fraction"),
        of("split_seed"),
        of("word_column"),
        of("tag_column"),
        of("scheme"),
        of("doc_stride"),
        of("epochs", None, "num_train_epochs"),
        of("batch_size", None, "train_batch_size"),
        of("infer_batch_size", None, "predict_batch_size"),
        of("learning_rate"),
        of("max_seq_length"),
        of("length_buckets"),
        of("max_steps"),
        of("train_iter_per_epoch"),
        of("gradient_accumulation_steps"),
        of("warmup_proportion"),
        of("weight_decay_rate"),
        of("layerwise_lr_decay"),
        of("seed"),
        of("seeds"),
        of("vocab_file", path="input"),
        of("do_lower_case"),
        of("evaluate_during_training"),
        of("eval_steps"),
        of("early_stopping_patience"),
        of("metric"),
        of("save_checkpoints_minutes"),
        of("keep_checkpoint_max"),
        of("skip_bad_updates"),
        of("profile_steps"),
        of("histograms"),
        of("tracker"),
        of("force"),
        of("log_freq"),
        of("num_workers", **WORKERS),
        HOSTFILE,
        ENV,
        of("xla"),
        of("bf16_config_path", path="input"),
        of("gradient_compression"),
        of("recompute"),
        of("skip_checkpoint"),
        of("overwrite"),
        MAX_RESTARTS,
        MIN_WORKERS,
        DRY_RUN,
    ])


def electra_tasks(call: Call) -> Plan:
    """One fine-tuning, evaluation or prediction."""
    flags, mode = call.flags(TaskConfig), call["mode"]
    if not flags.get("output_dir"):
        flags["output_dir"] = os.path.join("results", flags.get("task", "tasks"))
    flags.update({name: "true" for name, wanted in (
        ("do_train", mode.startswith("train")), ("do_eval", mode.endswith("eval")),
        ("do_predict", mode == "prediction" or "test_file" in flags)) if wanted})
    if flags["device"] == "hpu":
        flags.pop("xla", None)
    with call.own_words():
        config = configuration.from_words(TaskConfig, flags)
    return Plan({**workers(call, config), "command": call.command("run_tf_tasks.py", flags, config), **building({}),
                 "results": config.output_dir, "log": os.path.join(config.output_dir, "console.log")}, [], [config],
                config.output_dir, "output_dir")
