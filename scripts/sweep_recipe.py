"""scripts/finetune_ckpts_on_squad.sh: its options, those of scripts/sweep_squad.py, and the command.

Only the standard library is used.
"""
from __future__ import annotations

import dataclasses
import os
import re
from typing import Callable, List, Optional

from options import ROOT, Call, Table, exists, flag
from plans import DEVICES, DRY_RUN, ESTIMATE, Plan
from squad_recipe import squad, squad_table

import configuration
from configuration import UserError, option
from squad_options import SquadConfig

# The lists of a search, and the option of electra_squad.sh that each of their values is.
SEARCHED = {"learning_rates": "learning_rate", "batch_sizes": "batch_size", "epoch_counts": "epochs",
            "layerwise_lr_decays": "layerwise_lr_decay"}


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """One call of scripts/sweep_squad.py."""

    checkpoints: Optional[str] = option(
        None, "folders of checkpoints, runs or single checkpoints, separated by commas, or a glob")
    seeds: str = option("1", "seeds, separated by commas; of several, the table has median and spread")
    device: Optional[str] = option(None, "device (default: the one that the checkpoint was trained on)",
                                   choices=DEVICES)
    out_dir: str = option("results/squad_sweep", "folder of the sweep")
    keep_checkpoint_max: int = option(
        1, "newest fine-tuned checkpoints kept of each finished fine-tuning; 0: results and predictions alone",
        minimum=0, maximum=SquadConfig.keep_checkpoint_max)
    check_only: bool = option(False, "only check the checkpoints, the options, the data and the disk space")
    learning_rates: Optional[str] = option(None, "search: values of learning_rate, separated by commas")
    batch_sizes: Optional[str] = option(None, "search: values of batch_size, separated by commas")
    epoch_counts: Optional[str] = option(None, "search: values of epochs, separated by commas")
    layerwise_lr_decays: Optional[str] = option(None, "search: values of layerwise_lr_decay, separated by commas")
    trials: int = option(0, "search: number of random combinations of the lists (0: all combinations)", minimum=0)
    trials_seed: int = option(0, "search: seed of the random combinations", minimum=0)
    halving: int = option(
        0, "search: successive halving; fine-tune all combinations for a fraction of max_steps, and again, so many "
        "times as long, the best one in so many of them, until max_steps is reached (0: off)", minimum=0, maximum=100)

    def __post_init__(self):
        configuration.check_options(self)
        for plural in SEARCHED:
            try:
                list(map(float, (getattr(self, plural) or "1").split(",")))
            except ValueError as error:
                raise UserError(f"--{plural}={getattr(self, plural)} must be numbers separated by commas.") from error
        searched = [plural for plural in SEARCHED if getattr(self, plural)]
        if (self.trials or self.halving) and not searched:
            raise UserError(f"--{'trials' if self.trials else 'halving'} needs lists to search: give one or more of "
                            f"--{', --'.join(SEARCHED)}.")
        if self.halving == 1:
            raise UserError("--halving=1 would keep all of them: give 2 or more.")
        if not re.fullmatch("[0-9]+(,[0-9]+)*", self.seeds):
            raise UserError(f"--seeds={self.seeds} must be integers separated by commas, such as "
                            "1,2,3.")

    @property
    def seed_list(self) -> List[str]:
        return self.seeds.split(",")

    def check_passed(self, names: List[str], max_steps: int):
        """Raises UserError where options of electra_squad.sh (their names, and max_steps) do not fit the search."""
        for plural, name in SEARCHED.items():
            if getattr(self, plural) and name in names:
                raise UserError(f"--{plural} and --{name} are both given: omit one of them.")
        if self.halving and max_steps <= 0:
            raise UserError(f"--halving={self.halving} needs --max_steps, the updates of the last round.")
        if self.epoch_counts and max_steps > 0:
            raise UserError("--epoch_counts and --max_steps are both given: omit one of them.")

    def sole_user(self):
        return configuration.sole_user(self.out_dir, "choose another --out_dir")


SET_BY_SWEEP = ("device", "seed", "init_checkpoint", "out_dir", "electra_model", "mode", "env", "overwrite", "dry_run")


def sweep_table() -> Table:
    def of(name, **more):
        return flag(SweepConfig, name, **more)

    return Table(f"""\
usage: checkpoints=FOLDER[,FOLDER...] bash scripts/finetune_ckpts_on_squad.sh [--option=value ...]
Exports and fine-tunes each checkpoint in its own folder under out_dir, in the order of training, and writes a table
(sweep.txt, sweep.csv) and a plot (sweep.png). Everything is checked before the first fine-tuning. With lists, such as
learning_rates, it searches for the best settings and prints the command of the best ones.

The options after dry_run are passed to scripts/electra_squad.sh. The sweep itself sets its other options:
{", ".join(SET_BY_SWEEP[:-1])}.\
""", [], [
        of("checkpoints", environment="checkpoints",
           meaning="folders of checkpoints, runs or single checkpoints, separated by commas or blanks, or a glob; also "
                   "the environment variable of this name"),
        of("seeds"),
        of("device"),
        of("out_dir", path="output"),
        of("keep_checkpoint_max"),
        *map(of, SEARCHED),
        of("trials"),
        of("trials_seed"),
        of("halving"),
        DRY_RUN,
        *(entry for entry in squad_table().options if entry.name not in SET_BY_SWEEP and entry not in ESTIMATE),
    ])


def sweep(call: Call) -> Plan:
    """Fine-tunings of several checkpoints. What electra_squad.sh refuses is refused here, before the first export."""
    flags = call.flags(SweepConfig)
    names = checkpoint_names(call["checkpoints"], lambda name: exists(call.input_path(name), ROOT) or os.path.exists(
        os.path.join(ROOT, call.input_path(name) + ".index")))
    if not names:
        raise UserError("--checkpoints is missing: name the folder, as in checkpoints=results/models/base/checkpoints "
                        f"bash scripts/{call.wrapper}.")
    flags["checkpoints"] = ",".join(map(call.input_path, names))
    config = configuration.from_words(SweepConfig, flags)
    passed = [f"--{entry.name}={call.path(entry.name)}" for entry in call.table.options
              if entry.config_class is not SweepConfig and entry is not DRY_RUN
              and (entry.name in call.given or entry.environment and call[entry.name])]
    made = squad(passed, True, call.start_dir)
    config.check_passed([entry.name for entry in call.table.options if entry.name in call.given],
                        made.configs[0].max_steps)
    command = [*call.command("scripts/sweep_squad.py", flags, config), "--", *passed]
    return Plan({"device": config.device or "cpu", "command": command}, [], [config], config.out_dir, "out_dir")


def checkpoint_names(text: str, is_there: Callable[[str], bool]) -> List[str]:
    """The names in --checkpoints: the whole text if that is there; else what commas separate, and blanks where the text
    between two commas is not there."""
    parts = [text] if text and is_there(text) else list(filter(None, map(str.strip, text.split(","))))
    return [name for part in parts for name in ([part] if is_there(part) else part.split())]


def fine_tuning(device: str, seed: int, weights: str, folder: str, arguments: List[str]) -> List[str]:
    """The arguments of electra_squad.sh in a sweep."""
    return [f"--device={device}", f"--seed={seed}", f"--init_checkpoint={weights}", f"--out_dir={folder}", *arguments]
