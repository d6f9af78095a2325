"""scripts/benchmark_pretraining.sh and benchmark_squad.sh: their options, those of scripts/benchmark.py, the command.

Only the standard library is used.
"""
from __future__ import annotations

import dataclasses
import os
from typing import Optional, Union

from options import Call, Table, flag
from plans import DRY_RUN, Plan, check_device

import configuration
from configuration import DeviceOptions, UserError, like, option
from electra_config import ElectraConfig
from pretraining_options import PretrainingConfig
from squad_options import SquadConfig


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """One call of scripts/benchmark.py."""

    task: str = option("pretraining", "what is measured", choices=("pretraining", "squad"))
    device: str = like(DeviceOptions, "device")
    precision: str = like(DeviceOptions, "precision")
    model_size: str = like(PretrainingConfig, "model_size")
    train_batch_size: int = option(8, "sequences per micro-batch", minimum=1)
    gradient_accumulation_steps: int = like(PretrainingConfig, "gradient_accumulation_steps", 4)
    max_seq_length: int = option(128, "sequence length, in tokens", minimum=16)
    predict_batch_size: int = option(16, "squad: examples per batch of inference", minimum=1)
    updates: int = option(8, "updates of training in each turn", minimum=1)
    warmup_updates: int = option(2, "updates before the first turn", minimum=1)
    repeats: int = option(3, "turns; the result is their median", minimum=1)
    ceiling_seconds: float = option(1.0, "time spent on each matrix product of the ceiling and on reading input, in "
                                    "seconds", minimum=0.001)
    against: str = option("none", "none, or hf: Hugging Face transformers on PyTorch does the same work in turns; its "
                          "environment is created in <out_dir>/transformers4 (about 1 GB)", choices=("none", "hf"))
    model_config: Optional[str] = like(PretrainingConfig, "model_config")
    objective: str = like(PretrainingConfig, "objective")
    generator: str = like(PretrainingConfig, "generator")
    generator_hidden_size: Optional[float] = like(PretrainingConfig, "generator_hidden_size")
    optimizer: str = like(PretrainingConfig, "optimizer")
    joint_head: bool = like(SquadConfig, "joint_head")
    length_buckets: str = like(SquadConfig, "length_buckets")
    xla: str = like(DeviceOptions, "xla")
    bf16_config_path: Optional[str] = like(DeviceOptions, "bf16_config_path")
    force: bool = like(DeviceOptions, "force")
    out_dir: str = option("results/benchmark", "folder for the results")
    plot: Optional[str] = option(None, "measure nothing: draw the share of the ceiling and the memory in all JSON "
                                 "files of the task in out_dir to this PNG file")

    def __post_init__(self):
        configuration.check_options(self)
        self.program()
        self.encoder()
        if self.against == "hf" and self.device == "hpu":
            raise UserError("--against=hf is supported on cpu and gpu: omit it for --device=hpu.")
        if self.against == "hf" and (self.objective, self.generator) != ("electra", "separate"):
            raise UserError("--against=hf measures ELECTRA with a separate generator: omit --objective and "
                            "--generator.")

    def program(self, folder: str = "x") -> Union[PretrainingConfig, SquadConfig]:
        """The configuration of the program that is measured, with its data and results in one folder."""
        own = {field.name for field in dataclasses.fields(self)}
        of_task = SquadConfig if self.task == "squad" else PretrainingConfig
        common = {field.name: getattr(self, field.name) for field in dataclasses.fields(of_task) if field.name in own}
        if self.task == "squad":
            return SquadConfig(**common, do_train=True, do_predict=True, data_dir=folder, output_dir=folder, seed=1,
                               skip_cache=True, skip_checkpoint=True, disable_progress_bar=True)
        return PretrainingConfig(
            **common, pretrain_tfrecords=folder, eval_tfrecords=folder, results_dir=folder, seed=1,
            num_eval_steps=self.updates * self.gradient_accumulation_steps, num_train_steps=1_000_000,
            skip_checkpoint=True)

    def encoder(self) -> ElectraConfig:
        return PretrainingConfig(model_size=self.model_size, model_config=self.model_config, pretrain_tfrecords="x",
                                 max_seq_length=self.max_seq_length).encoder_config(ElectraConfig.vocab_size)

    @property
    def json_file(self) -> str:
        shape = f"{self.train_batch_size}x{self.max_seq_length}"
        name = "_".join((self.task, self.model_size, self.device, self.precision, shape))
        return os.path.join(self.out_dir, f"{name}.json")

    def sole_user(self):
        return configuration.sole_user(self.out_dir, "choose another --out_dir")


def benchmark_table(task: str) -> Table:
    """The options that the task has; where it states a default, that one in place of the program's."""
    defaults = {"squad": {"gradient_accumulation_steps": "1", "max_seq_length": "384", "updates": "16"}}.get(task, {})
    others = {"pretraining": ("joint_head", "length_buckets", "predict_batch_size"),
              "squad": ("objective", "generator", "generator_hidden_size", "optimizer")}[task]
    names = [name for name in BenchmarkConfig.__dataclass_fields__ if name not in ("task", *others)]
    renamed = {"model_size": "electra_model", "train_batch_size": "batch_size", "predict_batch_size":
               "infer_batch_size"}
    paths = {"model_config": "input", "bf16_config_path": "input", "out_dir": "output",
             "plot": "output"}
    entries = [flag(BenchmarkConfig, renamed.get(name, name), defaults.get(name), name, path=paths.get(name))
               for name in names]
    what = {"pretraining": "pre-training", "squad": "fine-tuning on SQuAD"}[task]
    return Table(f"""\
usage: bash scripts/benchmark_{task}.sh [value ...] [--option=value ...]
Measures the speed of {what} and inference on this machine, on generated data with the
lengths of real data, beside the fastest matrix products that TensorFlow reaches here. Prints a table and writes JSON to
out_dir. It uses one device; training logs have the speed of several workers (docs/performance.md).\
""", entries[:4], [*entries[4:], DRY_RUN])


def benchmark(task: str, call: Call) -> Plan:
    """A measurement of speed, which does nothing else."""
    flags = {"task": task, **call.flags(BenchmarkConfig)}
    if flags["device"] == "hpu":
        flags.pop("xla", None)
    with call.own_words():
        config = configuration.from_words(BenchmarkConfig, flags)
    check_device(call, config.device)
    return Plan({"device": config.device, "command": call.command("scripts/benchmark.py", flags, config)}, [], [config],
                config.out_dir, "out_dir")
