"""What differs between two runs, in words and numbers, and whether their results differ by more than noise.

Two sources of noise are estimated, and a difference in held-out loss must exceed both to be called beyond noise:

- Which records are held out. The runs are compared on the same held-out batches with the same masks, batch by batch:
  a paired difference, whose standard error follows from the spread of the differences over the batches (training
  records the loss of each batch of its last evaluation).
- Chance in training. Of the last evaluations of each run, the standard deviation around a straight line.

Both use a 95% interval of Student's t. What they cannot show is what another seed would have given: only a repetition
with another --seed does, see docs/tracking.md. Scores of SQuAD are compared question by question, as analysis.py does.
"""
from __future__ import annotations

import math
import os
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import analysis
import configuration
import files
import model_card
from configuration import UserError
from run_folder import Part, Run, dict_in, number_in
from squad_options import AnalysisConfig

# Options that say where things are or how a run was resumed, and not what it computes.
HOUSEKEEPING = {"model_name", "results_dir", "log_dir", "json_summary", "output_dir", "restore_checkpoint", "overwrite",
                "check_only", "eval_only", "force", "log_freq", "profile_steps", "disable_progress_bar", "cache_dir",
                "skip_cache", "keep_checkpoint_max", "keep_every_steps", "save_checkpoints_minutes", "eval_script",
                "tracker", "histograms"}
# What the held-out batches and their masks depend on.
HELD_OUT = ("eval_tfrecords", "num_eval_steps", "train_batch_size", "max_seq_length", "mask_prob", "seed", "vocab_file")
LOSSES = ("generator_loss", "discriminator_loss", "loss")
LAST = 6  # evaluations whose spread is taken
FEWEST = 4

# --- Losses of held-out batches ---


def batches_file(logs: str, phase: int) -> str:
    return os.path.join(logs, f"held_out_phase{phase}.json")


def write_batches(logs: str, phase: int, step: int, batches: Sequence[Dict[str, float]]):
    """Keeps the losses of each held-out batch of the last evaluation. Raises: OSError."""
    names = [name for name in LOSSES if batches and name in batches[0]]
    files.write_json(batches_file(logs, phase), {
        "step": step, **{name: [batch.get(name, 0.0) for batch in batches] for name in names}})


def read_batches(run: Run, part: Part) -> dict:
    """Empty where they were not recorded, or not of the last evaluation."""
    try:
        content = configuration.read_json_object(batches_file(run.logs, part.number))
    except UserError:
        return {}
    return content if content.get("step") == part.last.get("eval", {}).get("step") else {}


# --- Statistics ---


def t_quantile(degrees: int) -> float:
    """Student's t at 97.5%, by the first terms of its expansion around the normal's; within 2% from 4 degrees on."""
    z = 1.959964
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def paired_margin(differences: Sequence[float]) -> Optional[float]:
    """Half of the 95% interval of their mean; None for too few."""
    count = len(differences)
    if count < FEWEST + 1:
        return None
    mean = sum(differences) / count
    variance = sum((value - mean) ** 2 for value in differences) / (count - 1)
    return t_quantile(count - 1) * math.sqrt(variance / count)


def scatter(values: Sequence[Tuple[float, float]]) -> Optional[float]:
    """The variance of the values of (step, value) around a straight line; None for fewer than FEWEST."""
    count = len(values)
    if count < FEWEST:
        return None
    mean_x, mean_y = (sum(pair[axis] for pair in values) / count for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in values)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in values) / spread if spread else 0.0
    return sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in values) / (count - 2)


def trend_margin(first: Sequence[Tuple[float, float]], second: Sequence[Tuple[float, float]]) -> Optional[float]:
    """Half of the 95% interval of a difference of two evaluations, by their scatter; None for too few of either."""
    variances = scatter(first), scatter(second)
    if None in variances:
        return None
    return t_quantile(len(first) + len(second) - 4) * math.sqrt(sum(variances))


class Difference(NamedTuple):
    """A held-out loss of two runs."""

    name: str
    first: float
    second: float
    paired: Optional[float]  # margins
    trend: Optional[float]

    @property
    def value(self) -> float:
        return self.second - self.first

    @property
    def verdict(self) -> str:
        """In words; a margin that is not known says nothing in either direction."""
        known = [margin for margin in (self.paired, self.trend) if margin is not None]
        if not known:
            return "noise unknown: too few evaluations, and no losses of batches"
        if abs(self.value) <= max(known):
            return "within noise"
        if len(known) == 2:
            return "beyond noise"
        return "beyond noise of " + ("the held-out records; chance in training is unknown" if self.trend is None
                                     else "the last evaluations; that of the held-out records is unknown")


def differences(a: Run, b: Run, one: Part, other: Part) -> List[Difference]:
    """Of the last evaluations of a phase."""
    found = []
    batches = read_batches(a, one), read_batches(b, other)
    paired = held_out_alike(one, other)
    for name in LOSSES:
        values = [number_in(part.last.get("eval", {}), name) for part in (one, other)]
        if None in values:
            continue
        pairs = [content.get(name) or [] for content in batches]
        margin = None
        if paired and len(pairs[0]) == len(pairs[1]):
            margin = paired_margin([y - x for x, y in zip(*pairs)])
        points = [[(point.step, point.value) for point in part.points("eval", name)[-LAST:]] for part in (one, other)]
        found.append(Difference(name, *values, margin, trend_margin(*points)))
    return found


def held_out_alike(one: Part, other: Part) -> bool:
    return all(one.config.get(name) == other.config.get(name) for name in HELD_OUT)


# --- In words ---


def in_words(a: Run, b: Run) -> str:
    """What differs between two runs, in lines."""
    names = analysis.names_of([a.folder, b.folder])
    lines = [f"first:  {names[0]} ({a.kind}, {a.state})", f"second: {names[1]} ({b.kind}, {b.state})"]
    if a.kind != b.kind:
        return "\n".join([*lines, "", f"A {a.kind} and a {b.kind} have no settings or scores in common."])
    lines += ["", *listed("settings", settings(a, b)), *listed("data", data(a, b)),
              *listed("versions", changes(a.versions, b.versions)), *listed("machine", changes(a.machine, b.machine))]
    for one, other in common(a, b):
        lines += held_out(a, b, one, other)
    lines += scores(a, b, names)
    return "\n".join(lines)


def common(a: Run, b: Run) -> Iterator[Tuple[Part, Part]]:
    """The phases that both have."""
    by_number = {part.number: part for part in b.parts}
    for part in a.parts:
        if part.number in by_number:
            yield part, by_number[part.number]


def listed(what: str, differing: Sequence[str]) -> List[str]:
    if not differing:
        return [f"{what}: the same"]
    return [f"{what}:", *(f"  {line}" for line in differing)]


def changes(first: dict, second: dict, prefix: str = "") -> List[str]:
    """A line for each key with another value: `key: before -> after`."""
    keys = [*first, *(key for key in second if key not in first)]
    return [f"{prefix}{key}: {shown(first.get(key))} -> {shown(second.get(key))}" for key in keys
            if first.get(key) != second.get(key)]


def shown(value) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def settings(a: Run, b: Run) -> List[str]:
    lines = []
    for one, other in common(a, b):
        mine, theirs = ({name: value for name, value in part.config.items() if name not in HOUSEKEEPING}
                        for part in (one, other))
        prefix = f"phase {one.number}: " if len(a.parts) > 1 or len(b.parts) > 1 else ""
        lines += changes(mine, theirs, prefix)
        encoders = [dict_in(part.settings, "discriminator") or dict_in(part.settings, "encoder")
                    for part in (one, other)]
        lines += [line for line in changes(*encoders, prefix) if line not in lines]
    for run, missing in ((a, b), (b, a)):
        numbers = {part.number for part in missing.parts}
        lines += [f"only {run.name} has {part.title}" for part in run.parts if part.number not in numbers]
    return lines


def data(a: Run, b: Run) -> List[str]:
    lines = []
    for one, other in common(a, b):
        found = changes(a.data(one), b.data(other))
        if not found and one.settings.get("data") != other.settings.get("data"):
            found = ["other shards, with the same numbers of records"]
        lines += [f"{one.title}: {line}" for line in found]
    return lines


def held_out(a: Run, b: Run, one: Part, other: Part) -> List[str]:
    """The held-out losses of a phase."""
    found = differences(a, b, one, other)
    if not found:
        return []
    steps = [part.last["eval"]["step"] for part in (one, other)]
    where = f"step {steps[0]:,}" if steps[0] == steps[1] else f"steps {steps[0]:,} and {steps[1]:,}"
    lines = ["", f"held out, {one.title}, {where}:"]
    for difference in found:
        margins = [f"{margin:.4f} {of}" for margin, of in ((difference.paired, "by held-out batches"),
                                                          (difference.trend, "by the last evaluations"))
                   if margin is not None]
        lines.append(f"  {difference.name}: {difference.first:.4f} -> {difference.second:.4f} "
                     f"({difference.value:+.4f}; 95% margins: {', '.join(margins) or 'unknown'}): {difference.verdict}")
    if steps[0] != steps[1]:
        lines.append("  The runs were evaluated after different numbers of updates.")
    if not held_out_alike(one, other):
        other_options = [name for name in HELD_OUT if one.config.get(name) != other.config.get(name)]
        lines.append(f"  The held-out batches or their masks differ ({', '.join(other_options)}): the losses are not "
                     "strictly comparable.")
    lines.append("  Another seed may move a run by more than these margins: repeat both with several seeds to be sure.")
    return lines


def scores(a: Run, b: Run, names: Sequence[str]) -> List[str]:
    """The scores of fine-tunings on the same task, question by question where both answers are there."""
    both = [name for name in model_card.FINE_TUNING_SCORES if name in a.scores and name in b.scores]
    if not both:
        return []
    tasks = [run.results.get("task") for run in (a, b)]
    if tasks[0] != tasks[1]:
        return ["", "scores: of different tasks, which cannot be compared"]
    lines = ["", "scores:", *(f"  {name}: {a.scores[name]:.2f} -> {b.scores[name]:.2f}" for name in both)]
    if tasks[0]:
        return [*lines, "  Whether they differ beyond noise is not known: repeat both with several seeds to be sure."]
    try:
        compared = compare_answers(a, b)
    except UserError as error:
        return [*lines, f"  The answers cannot be compared one by one: {error}"]
    low, high = compared["f1_interval"]
    p = compared["mcnemar_p"]
    return [*lines,
            f"  F1 {compared['f1_difference']:+.2f} (95% interval {low:+.2f} to {high:+.2f}, bootstrap over "
            f"{compared['questions']:,} questions): {'within' if low <= 0 <= high else 'beyond'} noise",
            f"  exact matches: {names[1]} wins {compared['exact_won']:,} questions and loses "
            f"{compared['exact_lost']:,}: {'within' if p > 0.05 else 'beyond'} noise (McNemar, p = {p:.3g})"]


def compare_answers(a: Run, b: Run) -> dict:
    """See `analysis.compare`. Raises: UserError."""
    config = AnalysisConfig(runs=f"{a.folder},{b.folder}")
    (_, first), (_, second) = (analysis.read_run(run.folder, config) for run in (a, b))
    if [question.example for question in first] != [question.example for question in second]:
        raise UserError("they are of different questions.")
    return analysis.compare(first, second)
