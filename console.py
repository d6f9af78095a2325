"""The first and last lines of a training command: what will happen, where to look, what was reached, what comes next.

A line has a label and a text. On the console it is wrapped at 80 columns; the log file has it in one piece. Paths are
never cut: those below the working folder are relative, those in the home folder start with `~`, and a long one has a
line of its own. Commands are complete and quoted for the shell; long ones are split with backslashes.
"""
from __future__ import annotations

import os
import shlex
import sys
import textwrap
import time
from typing import List, NamedTuple, Optional, Sequence

from absl import logging

WIDTH = 80
INDENT = 10  # columns of the labels
ROOT = os.path.dirname(os.path.abspath(__file__))


class Line(NamedTuple):
    """A labelled line. `full`: what the log file has, where that is more than the console shows."""

    label: str
    text: str
    full: Optional[str] = None

    def wrapped(self) -> str:
        """As the console shows it; a command is wrapped already."""
        if "\n" in self.text:
            return f"{self.label:<{INDENT}}" + self.text.replace("\n", "\n" + " " * INDENT)
        return textwrap.fill(self.text, WIDTH, initial_indent=f"{self.label:<{INDENT}}", break_long_words=False,
                             subsequent_indent=" " * INDENT, break_on_hyphens=False)


def show(lines: Sequence[Line]):
    """Logs the lines, on the console with their labels in one column."""
    for line in lines:
        full = line.text if line.full is None else line.full
        logging.info("%s: %s", line.label, full.replace(" \\\n    ", " "), extra={"console": line.wrapped()})


def short_path(path: str) -> str:
    """A path as short as it can be copied: below the working folder relative, in the home folder with `~`."""
    full, home = os.path.abspath(path), os.path.expanduser("~")
    if full == os.getcwd():
        return "."
    for folder, prefix in ((os.getcwd(), ""), (home, "~/")):
        if folder != "/" and full.startswith(folder + "/"):
            return prefix + full[len(folder) + 1:]
    return full


def command(words: Sequence[str]) -> str:
    """A command to copy into a shell, split with backslashes where it is longer than a line of the console."""
    lines: List[str] = [""]
    for word in map(_quoted, words):
        if lines[-1] and len(lines[-1]) + len(word) + 3 > WIDTH - INDENT:
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}" if lines[-1] else word
    return " \\\n".join(lines)


def _quoted(word: str) -> str:
    """Quoted for the shell, which expands `~` only where it is not quoted."""
    option, equals, value = word.partition("=") if word.startswith("--") and "=" in word else ("", "", word)
    home = value.startswith("~/") and not option
    return option + equals + ("~/" + shlex.quote(value[2:]) if home else shlex.quote(value))


def option(name: str, path: str) -> str:
    """An option with a path. In `--name=~/x` bash does not expand the `~`."""
    short = short_path(path)
    return f"--{name}={os.path.abspath(path) if short.startswith('~') else short}"


def python(script: str) -> List[str]:
    """The first words of a command of this project, with the interpreter in use."""
    interpreter = sys.executable or "python3"  # not resolved: a virtual environment's is a link
    return [short_path(interpreter), short_path(os.path.join(ROOT, script))]


def wrapper(script: str) -> List[str]:
    return ["bash", short_path(os.path.join(ROOT, "scripts", script))]


# --- The first screen ---


def time_ahead(step: int, num_train_steps: int) -> Line:
    """When the time that a run takes is known. `step`: updates done before."""
    if num_train_steps - step < 3:
        return Line("time", "not estimated for so few updates")
    return Line("time", f"estimated after update {step + 2} (update {step + 1} compiles, and is not typical)")


def time_left(seconds: float, updates: int) -> Line:
    """How long the updates that are left take, and until when; evaluations and checkpoints are not counted."""
    end = time.strftime("%a %d %b %H:%M", time.localtime(time.time() + seconds))
    return Line("time", f"about {in_words(seconds)} for the {updates:,} updates left, until {end}, without "
                "evaluations")


def in_words(seconds: float) -> str:
    """A duration of two units, rounded to the second one."""
    minutes = int(seconds / 60 + 0.5)
    if minutes < 1:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} days {minutes // 60 % 24} h"


def places(folder: str, log: str, tensorboard_dir: str, saves: bool) -> Line:
    """Where to look while a run trains. `folder`: of the run; `log`: the file that has all lines."""
    def below(path: str) -> str:
        relative = os.path.relpath(path, folder)
        return short_path(path) if relative.startswith("..") else relative

    logs = [below(log), f"{below(tensorboard_dir)}/ (TensorBoard)"]
    shorter = ["logs/ (TensorBoard)"] if all(path.startswith("logs/") for path in logs) else logs
    there, *parts = [f"{short_path(folder)}: report.html", *(["checkpoints/"] if saves else [])]
    return Line("output", ", ".join([there, *parts, *shorter]), ", ".join([there, *parts, *logs]))


def counted(number: int, what: str) -> str:
    """`1 layer`, `2,000 layers`."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def folded(text: str) -> str:
    """A long line as the console shows it."""
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


# --- What to do next ---


def after_pretraining(config, device: str, checkpoint: Optional[str]) -> List[Line]:
    """What follows a finished phase: the second phase, else a fine-tuning and an export of its checkpoint.

    Args:
        config: a PretrainingConfig.
        checkpoint: the best one by held-out loss, else the last one; None: none was written.
    """
    following = os.environ.get("ELECTRA_THEN")  # scripts/electra.sh runs both phases
    if following:
        return [Line("next", f"{following}, which starts now")]
    lines = []
    if config.phase == 1 and checkpoint:
        with_phase_2 = "--phase=2" if os.environ.get("ELECTRA_WRAPPER") else (
            "--phase2 --restore_checkpoint=latest, longer records and their --max_seq_length")
        lines.append(Line("phase 2", f"the same command with {with_phase_2}"))
    if checkpoint and config.objective == "electra":
        lines.append(Line("fine-tune", command([*wrapper("electra_squad.sh"), device,
                                                option("init_checkpoint", checkpoint)])))
    if checkpoint:
        lines.append(Line("export", command(export(checkpoint, os.path.join(config.model_dir, "exported")))))
    return lines


def export(checkpoint: str, folder: str) -> List[str]:
    return [*python("postprocess_pretrained_ckpt.py"), option("pretrained_checkpoint", checkpoint),
            option("output_dir", folder)]


def after_fine_tuning(config) -> List[Line]:
    """What follows a fine-tuning: the error analysis, the model on a page, an export.

    Args:
        config: a FineTuningOptions.
    """
    if config.skip_checkpoint:
        return []
    model = config.output_dir
    best = os.path.join(model, "best") if os.path.exists(os.path.join(model, "checkpoints", "best.json")) else model
    lines = [Line("try", command([*python("run_inference.py"), option("init_checkpoint", best), "--serve"])),
             Line("export", command(export(best, os.path.join(model, "exported"))))]
    analysis = os.path.join(model, "analysis.html")
    if os.path.exists(analysis):
        lines.insert(0, Line("errors", short_path(analysis)))
    return lines
