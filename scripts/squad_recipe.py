"""scripts/electra_squad.sh: its options, and the command of one fine-tuning, evaluation or prediction.

Only the standard library is used.
"""
from __future__ import annotations

import os
from typing import List, Optional

from corpus_recipe import DEMO, MAKE_DEMO
from options import Call, Table, flag, own
from plans import DRY_RUN, ENV, ESTIMATE, HOSTFILE, MAX_RESTARTS, MIN_WORKERS, WORKERS, Plan, building, workers

import configuration
from configuration import UserError
from squad_options import SquadConfig


def squad_table() -> Table:
    """Positions and defaults are those of Habana's electra_squad.sh."""
    def of(name, *words, **more):
        return flag(SquadConfig, name, *words, **more)

    return Table("""\
usage: bash scripts/electra_squad.sh [value ...] [--option=value ...]
Fine-tunes ELECTRA on SQuAD 1.1 or 2.0, answers the questions of the development set, and scores the answers. Without
squad_dir (given here or in the environment) the bundled sample questions are used. Switches can be given without a
value.\
""", [
        of("device"),
        of("precision"),
        of("electra_model", path="input"),
        of("epochs", None, "num_train_epochs"),
        of("batch_size", None, "train_batch_size"),
        of("infer_batch_size", None, "predict_batch_size"),
        of("learning_rate"),
        of("num_workers", **WORKERS),
        of("seed", "RANDOM"),
        own("squad_version", "1.1", "1.1 or 2.0", ("1.1", "2.0"), also=("version_2_with_negative",)),
        of("squad_dir", "squad_dir", "data_dir", path="input", environment="squad_dir",
           meaning="folder of train-v1.1.json, dev-v1.1.json (2.0 likewise)"),
        of("out_dir", "results/", "output_dir", path="output"),
        of("init_checkpoint", "None", path="input", environment="init_checkpoint"),
        own("mode", "train_eval", "train, eval, train_eval or prediction",
            ("train", "eval", "train_eval", "prediction"), also=("do_train",)),
        ENV,
        of("cache_dir", "None", path="input", environment=""),
        of("max_steps"),
        of("train_iter_per_epoch"),
    ], [
        of("vocab_file", path="input"),
        of("strict_answers"),
        of("gradient_accumulation_steps"),
        of("warmup_proportion"),
        of("weight_decay_rate"),
        of("layerwise_lr_decay"),
        of("max_seq_length"),
        of("doc_stride"),
        of("length_buckets"),
        of("beam_size"),
        of("joint_head"),
        of("answerability_from_gold"),
        of("null_score_diff_threshold"),
        of("evaluate_during_training"),
        of("eval_steps"),
        of("early_stopping_patience"),
        of("save_checkpoints_minutes"),
        of("skip_bad_updates"),
        of("profile_steps"),
        of("histograms"),
        of("tracker"),
        of("force"),
        of("metric"),
        of("language"),
        of("eval_script", path="input"),
        of("log_freq"),
        of("xla"),
        HOSTFILE,
        of("bf16_config_path", path="input"),
        of("gradient_compression"),
        of("recompute"),
        of("skip_checkpoint"),
        of("overwrite"),
        MAX_RESTARTS,
        MIN_WORKERS,
        *ESTIMATE,
        DRY_RUN,
    ])


def electra_squad(call: Call) -> Plan:
    """One fine-tuning, evaluation or prediction."""
    flags, sample, notes = call.flags(SquadConfig), False, []
    if "data_dir" not in flags:
        sample, flags["data_dir"] = True, f"{DEMO}/squad"
        notes.append(f"no squad_dir is given: the bundled sample questions are used ({flags['data_dir']}), which only "
                     "show that everything works")
    elif not os.path.isdir(call.in_work_dir(flags["data_dir"])):
        raise UserError(f"--squad_dir={flags['data_dir']} is not a directory: give the one that holds the SQuAD files.")
    if call["estimate"] == "true" and not call["mode"].startswith("train"):
        raise UserError(f"--estimate is for training, not for --mode={call['mode']}: omit one of them.")
    if flags["seed"] == "RANDOM":
        del flags["seed"]
    if call["squad_version"] == "2.0":
        flags["version_2_with_negative"] = "true"
    mode = call["mode"]
    flags.update({name: "true" for name, wanted in (
        ("do_train", mode.startswith("train")), ("do_predict", mode != "train"), ("do_eval", mode.endswith("eval")))
        if wanted})
    if flags["device"] == "hpu":
        del flags["xla"]
    with call.own_words():
        config = configuration.from_words(SquadConfig, flags)
    return Plan({**workers(call, config), "command": call.command("run_tf_squad.py", flags, config),
                 **building(MAKE_DEMO if sample else {}), "results": config.output_dir,
                 "log": os.path.join(config.output_dir, "console.log")}, notes, [config],
                "" if call["estimate"] == "true" else config.output_dir, "output_dir")


def squad(words: List[str], dry_run: bool, start_dir: Optional[str] = None) -> Plan:
    """A call of electra_squad.sh in a folder, by default in this one. Raises: UserError: it is refused."""
    words = [*words, f"--{DRY_RUN.name}={str(dry_run).lower()}"]
    return electra_squad(Call("electra_squad.sh", squad_table(), words, start_dir or os.getcwd()))
