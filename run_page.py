"""The page of a run, report.html: how it went, its curves, what it learnt, and what ran. Several runs on one page too.

A page is one file of a few hundred kilobytes, however long the run: curves are thinned (curves.Series) to MOST_POINTS
on the whole page. Training writes it at every evaluation and at the end, through `Writer`; report.py writes it for any
run, and serves it while a run trains.
"""
from __future__ import annotations

import dataclasses
import datetime
import os
import shlex
import statistics
import urllib.parse
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from absl import logging

import configuration
import files
import page
import samples_page
from curves import Point, Series
from page import Markup, Section, element
from pretraining_options import PretrainingConfig
from run_folder import Part, Run, dict_in, number_in, text_in
from squad_options import SquadConfig
from task_options import TaskConfig

NAME = "report.html"
MOST_POINTS = 80_000
MOST_SESSIONS = 50  # in the table of starts
LONGEST_VALUE = 400  # characters of an option
MOST_LINES = 12  # lines of a sweep's chart

# --- Numbers in words ---


def short(value) -> str:
    """A number with 4 significant digits, others as they are."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) < 1e15 else f"{value:.3e}"
    return f"{value:.4g}" if 1e-4 <= abs(value) < 1e6 or not value else f"{value:.2e}"


def in_words(name: str, value) -> str:
    """A metric's value; accuracies in percent."""
    if isinstance(value, (int, float)) and charted(name).percent:
        return f"{100 * value:.1f}%"
    return short(value)


def titled(name: str) -> str:
    return TITLES.get(name, name.replace("_", " "))


def duration(seconds: float) -> str:
    """Such as 3 h 12 min, or 45 s."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 100 else f"{hours // 24} d {hours % 24} h"


def moment(text: str) -> Optional[datetime.datetime]:
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        return None


# --- Charts ---


class Chart(NamedTuple):
    """What the page knows about a metric."""

    name: str
    title: str
    percent: bool = False
    group: str = "Loss and scores"


SPEED = "Optimizer and speed"
CHARTS = (
    Chart("loss", "loss"), Chart("generator_loss", "generator loss"),
    Chart("generator_accuracy", "generator accuracy", True), Chart("discriminator_loss", "discriminator loss"),
    Chart("discriminator_auc", "discriminator AUC"), Chart("discriminator_accuracy", "discriminator accuracy", True),
    Chart("discriminator_precision", "discriminator precision", True),
    Chart("discriminator_recall", "discriminator recall", True),
    Chart("discriminator_gain", "discriminator gain", True), Chart("f1", "F1"), Chart("exact_match", "exact match"),
    Chart("exact", "exact match"), Chart("start_accuracy", "start accuracy", True),
    Chart("end_accuracy", "end accuracy", True), Chart("answerability_accuracy", "answerability accuracy", True),
    Chart("train_accuracy", "accuracy in training", True), Chart("accuracy", "accuracy"),
    Chart("matthews", "Matthews correlation"), Chart("micro_f1", "micro F1"), Chart("macro_f1", "macro F1"),
    Chart("spearman", "Spearman correlation"), Chart("pearson", "Pearson correlation"))
HEADLINES = {"pretraining": ("generator_accuracy", "discriminator_auc"),
             "fine-tuning": ("f1", "exact_match", "exact", "accuracy", "matthews", "micro_f1", "macro_f1", "spearman",
                             "pearson")}
LATER_CHARTS = (
    Chart("learning_rate", "learning rate", group=SPEED), Chart("gradient_norm", "gradient norm", group=SPEED),
    Chart("sequences_per_second", "sequences per second", group=SPEED),
    Chart("tokens_per_second", "tokens per second", group=SPEED),
    Chart("model_flops_utilization", "model FLOPs utilization (MFU)", True, SPEED),
    Chart("model_flops_per_second", "model FLOP/s", group=SPEED))
TITLES = {chart.name: chart.title for chart in CHARTS + LATER_CHARTS}
NOT_DRAWN = {"step", "generator_perplexity", "average_sequences_per_second", "updates_per_second",
             "first_update_seconds", "skipped_updates"}
KINDS = (("train", "training"), ("eval", "held out"))


def charted(name: str) -> Chart:
    return next((chart for chart in CHARTS + LATER_CHARTS if chart.name == name), Chart(name, name.replace("_", " ")))


def charts_of(runs: Sequence[Run]) -> List[Chart]:
    """The charts for which there are values, in their order; those of metrics that have no place follow."""
    names = list(dict.fromkeys(name for run in runs for part in run.parts for kind, name in sorted(part.curves.series)
                               if kind in dict(KINDS) and name not in NOT_DRAWN))
    if "model_flops_utilization" in names:
        names.remove("model_flops_per_second")
    others = [charted(name) for name in names if name not in TITLES]
    return [*(chart for chart in CHARTS if chart.name in names), *others,
            *(chart for chart in LATER_CHARTS if chart.name in names)]


def offsets(run: Run) -> List[int]:
    """Updates before each phase: phases follow each other on the axis."""
    found, done = [], 0
    for part in run.parts:
        found.append(done)
        done += max(part.steps, int(number_in(part.config, "num_train_steps", 0)) if part is not run.parts[-1] else 0)
    return found


def points_of(run: Run, kind: str, name: str) -> List[Point]:
    """A metric over all phases. The held-out objective, which the log does not have, follows from its two losses."""
    found = []
    for part, offset in zip(run.parts, offsets(run)):
        points = part.points(kind, name)
        if not points and (kind, name) == ("eval", "loss"):
            points = objective(part)
        found += [point._replace(step=point.step + offset) for point in points]
    return found


def objective(part: Part) -> List[Point]:
    """Generator loss plus --disc_weight times the discriminator's, those there are, at each evaluation."""
    weight = number_in(part.config, "disc_weight")
    generator = {point.step: point.value for point in part.points("eval", "generator_loss")}
    discriminator = {point.step: point.value for point in part.points("eval", "discriminator_loss")}
    if weight is None:
        return []
    both = [losses for losses in (generator, discriminator) if losses]
    steps = sorted(set(both[0]).intersection(*both[1:])) if both else []
    return [Point(step, generator.get(step, 0.0) + weight * discriminator.get(step, 0.0)) for step in steps]


def thinned(points: Sequence[Point], limit: int) -> List[Point]:
    if len(points) <= limit:
        return list(points)
    series = Series(limit)
    for point in points:
        series.add(point)
    return series.points()


def line(points: Sequence[Point], limit: int, **more) -> dict:
    """A line of a chart, as templates/report.js takes it."""
    kept = thinned(points, limit)
    return {**more, "x": [point.step for point in kept], "y": [float(f"{point.value:.5g}") for point in kept]}


def guessers(runs: Sequence[Run]) -> List[dict]:
    """The accuracy of the guessers of the sample data, where a run was trained on it."""
    for run in runs:
        for part in run.parts:
            found = dict_in(run.data(part), "guessers")
            if found:
                return [{"label": name, "value": value} for name in ("unigram", "bigram", "oracle")
                        for value in [number_in(found, name)] if value is not None]
    return []


def curves_content(runs: Sequence[Run]) -> dict:
    """What templates/report.js draws."""
    found = []
    for chart in charts_of(runs):
        lines = [(number, run, kind, label, points_of(run, kind, chart.name)) for number, run in enumerate(runs)
                 for kind, label in KINDS]
        found.append((chart, [entry for entry in lines if entry[-1]]))
    limit = max(100, min(Series.LIMIT, MOST_POINTS // max(1, sum(len(lines) for _, lines in found)))) // 4 * 4
    names = names_of(runs)
    content = []
    for chart, lines in found:
        series = [line(points, limit, run=number, heldOut=kind == "eval",
                       label=label if len(runs) == 1 else f"{names[number]}, {label}")
                  for number, run, kind, label, points in lines]
        content.append({"key": chart.name, "title": chart.title, "group": chart.group, "percent": chart.percent,
                        "series": series,
                        "references": guessers(runs) if chart.name == "generator_accuracy" else []})
    longest = max(runs, key=lambda run: len(run.parts))
    return {"runs": names, "unit": "update", "charts": content, "references": "Guessers of the sample data",
            "parts": [{"title": part.title, "offset": offset} for part, offset in zip(longest.parts, offsets(longest))],
            "last": max((entry["x"][-1] for chart in content for entry in chart["series"]), default=1)}


def drawing(content: dict) -> Dict[str, Any]:
    """What a section needs to draw charts, beside its parts."""
    return {"script": page.template("uplot", "uplot.js") + "\n" + page.template("report.js"),
            "style": page.template("uplot", "uplot.css") + "\n" + page.template("report.css")}


def charts(content: dict) -> List[Markup]:
    return [element("noscript", page.paragraph("The curves need JavaScript; the tables below have their values.")),
            element("div", class_="charts"), page.data_for_script(content, "curves")]


def live(key: str, *parts: Markup) -> Markup:
    """Parts that templates/report.js replaces when the page refreshes."""
    return element("div", *parts, data_live=key)


def curves_section(runs: Sequence[Run]) -> Section:
    content = curves_content(runs)
    if not content["charts"]:
        return Section("Curves", [page.paragraph("Nothing has been logged yet.")])
    several = len(content["parts"]) > 1
    intro = page.paragraph(
        ("Both phases on one axis; a dotted line marks where the second begins. " if several else "") +
        "Drag over a chart to zoom in, double-click to show all. With the keyboard: arrows read values, + and - zoom, "
        "0 shows all. All charts show the same updates.")
    tables = [live(f"values-{number}", values_table(run, "Values" if len(runs) == 1 else f"Values of {name}"))
              for number, (run, name) in enumerate(zip(runs, names_of(runs)))]
    return Section("Curves", [intro, *charts(content), *tables], **drawing(content))


def values_table(run: Run, caption: str) -> Markup:
    """The first, last and best value of every metric: what the curves say, as text."""
    rows, phases = [], ["phase"] if len(run.parts) > 1 else []
    for chart in charts_of([run]):
        name = chart.name
        for part in run.parts:
            train = [entry.get(name) for entry in (part.first.get("train", {}), part.last.get("train", {}))]
            last, best = part.last.get("eval", {}).get(name), part.best.get(name)
            if train == [None, None] and last is None:
                continue
            rows.append((titled(name), *(str(part.number) for _ in phases),
                         *(in_words(name, value) for value in (*train, last)),
                         f"{in_words(name, best[0])} at {best[1]:,}" if best else ""))
    return page.table(caption, ("metric", *phases, "first, training", "last, training", "last, held out",
                                "best, held out"), rows)


# --- Overview ---

KIND_NAMES = {"pretraining": "ELECTRA pre-training", "fine-tuning": "ELECTRA fine-tuning",
              "sweep": "sweep of fine-tunings"}


def progress(run: Run) -> str:
    """Updates done, such as `phase 2: 120 of 933`."""
    words = []
    for part in run.parts:
        planned = planned_updates(run, part)
        title = f"{part.title}: " if len(run.parts) > 1 else ""
        words.append(f"{title}{part.steps:,}{f' of {planned:,}' if planned else ''}")
    return "; ".join(words) or "none logged"


def planned_updates(run: Run, part: Part) -> Optional[int]:
    planned = number_in(run.started(part), "num_train_steps") or number_in(part.config, "num_train_steps")
    return int(planned) if planned else None


def seconds_of(run: Run) -> float:
    """Time in which a process trained, as the history has it."""
    total = 0.0
    for session in run.sessions:
        start = moment(text_in(session.start, "time"))
        end = moment(text_in(session.end, "time")) if session.end else (
            datetime.datetime.now().astimezone() if session.is_running else None)
        if start and end and bool(start.tzinfo) == bool(end.tzinfo):
            total += max(0.0, (end - start).total_seconds())
    return total


def best_words(part: Part, name: str) -> str:
    best = part.best.get(name)
    return f"best: {in_words(name, best[0])} at update {best[1]:,}" if best else ""


def headlines(run: Run) -> List[Tuple[str, str, str]]:
    """Headline numbers: (name, value, remark)."""
    found = [("State", run.state, f"updates: {progress(run)}")]
    part = next((part for part in reversed(run.parts) if "eval" in part.last), None)
    losses = objective(part) if part else []
    if losses:
        best = min(losses, key=lambda point: point.value)
        found.append(("Held-out loss", short(losses[-1].value), f"best: {short(best.value)} at update {best.step:,}"))
    chosen_by = [name for name in dict_in(run.results, "best_checkpoint") if name not in ("checkpoint", "step")]
    for name in dict.fromkeys([*chosen_by, *HEADLINES["pretraining" if run.kind == "pretraining" else "fine-tuning"]]):
        value = number_in(part.last["eval"], name) if part else None
        if run.kind != "pretraining":
            value = number_in(run.results, name, value)
        if value is not None:
            found.append((titled(name)[0].upper() + titled(name)[1:], in_words(name, value),
                          best_words(part, name) if part else ""))
    trained = next((part.last["train"] for part in reversed(run.parts) if "train" in part.last), {})
    if number_in(trained, "sequences_per_second"):
        used = number_in(trained, "model_flops_utilization")
        found.append(("Speed", f"{short(trained['sequences_per_second'])} /s", "sequences, at the last update" +
                      (f"; MFU {100 * used:.1f}%" if used else "")))
    seconds = seconds_of(run)
    if seconds:
        count = len(run.sessions)
        found.append(("Time", duration(seconds), f"in {count} {'process' if count == 1 else 'processes'}"))
    return found


def problems(runs: Sequence[Run]) -> List[Markup]:
    found = [problem for run in runs for problem in run.problems]
    if not found:
        return []
    return [element("div", element("strong", "Not everything could be read"),
                    element("ul", *(element("li", problem) for problem in found)), class_="problems")]


def overview(run: Run, folder: str) -> Section:
    parts = [live("headlines", page.numbers(headlines(run)))]
    if os.path.isfile(os.path.join(run.folder, "analysis.html")):
        address = link(os.path.join(run.folder, "analysis.html"), folder)
        what, content = (("predictions", "scores by class and by length, and the worst predictions") if
                         "task" in run.results else ("answers", "scores by kind of question, and the worst answers"))
        parts.append(element("p", element("a", f"Error analysis of the {what}", href=address), f": {content}."))
    if run.kind == "fine-tuning" and run.scores:
        parts.append(page.table("Scores (results.json)", ("", "value"), [
            (titled(name), short(value)) for name, value in run.scores.items()]))
    return Section("Overview", [*problems([run]), *parts])


def link(path: str, folder: str) -> str:
    """A relative address of a file for a page in `folder`."""
    return urllib.parse.quote(os.fsencode(os.path.relpath(path, folder)))


def runs_section(runs: Sequence[Run], folder: Optional[str]) -> Section:
    """Several runs, a row each."""
    rows = []
    for run, name in zip(runs, names_of(runs)):
        held_out = run.held_out()
        part = next((part for part in reversed(run.parts) if "eval" in part.last), None)
        losses = objective(part) if part else []
        there = folder is not None and os.path.isfile(os.path.join(run.folder, NAME))
        f1 = number_in(run.results, "f1")
        rows.append((element("a", name, href=link(os.path.join(run.folder, NAME), folder)) if there else name,
                     run.state, progress(run), short(losses[-1].value) if losses else "",
                     in_words("generator_accuracy", held_out.get("generator_accuracy")),
                     short(held_out.get("discriminator_auc")), "" if f1 is None else short(f1),
                     run.machine.get("device", "")))
    return Section("Overview", [*problems(runs), live("headlines", page.table("Runs", (
        "run", "state", "updates", "held-out loss", "generator accuracy", "discriminator AUC", "F1", "device"), rows,
        [2]))])


def names_of(runs: Sequence[Run]) -> List[str]:
    """Short names that differ."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [run.folder for run in runs]


# --- What ran ---

# The second phase of the recipe, which has no configuration class of its own.
SECOND_PHASE = {"max_seq_length": 512, "learning_rate": 4e-3, "num_train_steps": 933, "num_warmup_steps": 200}
CONFIGURATIONS = (PretrainingConfig, SquadConfig, TaskConfig)
PLACES = {"phase2", "restore_checkpoint", "results_dir", "model_name", "output_dir", "log_dir", "json_summary",
          "pretrain_tfrecords", "eval_tfrecords", "data_dir", "cache_dir", "overwrite"}  # differ in every run


def defaults_of(part: Part) -> Dict[str, Any]:
    """The recipe's values of a part's options; {} where the options are of no known command."""
    known = [{field.name: field.default for field in dataclasses.fields(config_class)}
             for config_class in CONFIGURATIONS]
    names = set(part.config)
    fields = max(known, key=lambda fields: (len(names & set(fields)), -len(set(fields) - names)))
    if not names & set(fields):
        return {}
    return {**fields, **(SECOND_PHASE if part.number == 2 else {})}


def settings_table(parts: Sequence[Part], key: str = "options", of: str = "") -> List[Markup]:
    """The options that differ from the recipe's, and all of them.

    Args:
        key: of the latter, unique on the page.
        of: what captions end with, unique on the page.
    """
    titles = [part.title for part in parts]
    defaults = [defaults_of(part) for part in parts]
    names = list(dict.fromkeys(name for part in parts for name in part.config))
    rows, changed = [], []
    for name in names:
        cells, differs = [], False
        for part, known in zip(parts, defaults):
            value = part.config.get(name)
            other = name in known and value != known[name]
            differs |= other
            cells.append(element("strong", shown(value), " ●") if other else shown(value))
        recipe = " / ".join(dict.fromkeys(shown(known[name]) for known in defaults if name in known))
        rows.append((f"--{name}", *cells, recipe))
        if differs and name not in PLACES:
            changed.append(rows[-1])
    if not rows:
        return []
    header, texts = ("option", *titles, "recipe"), range(1, len(titles) + 2)
    return [page.table(f"Options that differ from the recipe's defaults (●){of}", header, changed, texts),
            element("details", element("summary", f"All {len(rows)} options"),
                    page.table(f"All options{of}", header, rows, texts), id=key)]


def shown(value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return configuration.in_brief(value)
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."


def command_of(words: Sequence[str]) -> Markup:
    """A command line that breaks between its words."""
    parts = [part for word in words if isinstance(word, str) for part in (element("span", shlex.quote(word)), " ")]
    return element("pre", *parts[:-1], class_="command", tabindex="0")


def data_table(run: Run, of: str) -> Optional[Markup]:
    rows: Dict[str, List[str]] = {}
    for index, part in enumerate(run.parts):
        data, trained = run.data(part), part.last.get("train", {})
        records, per_update = number_in(data, "records"), number_in(data, "sequences_per_update")
        length = number_in(part.config, "max_seq_length")
        entries = {"data": text_in(part.config, "pretrain_tfrecords") or text_in(part.config, "data_dir"),
                   "held-out data": text_in(part.config, "eval_tfrecords"), "records": records,
                   "shards": number_in(data, "shards"), "questions": number_in(data, "questions"),
                   "documents of the dataset": number_in(data, "dataset_documents"),
                   "tokens of the dataset": number_in(data, "dataset_tokens"), "sequence length": length,
                   "sequences in an update": per_update}
        if records and per_update:
            entries["epochs done"] = round(part.steps * per_update / records, 3)
        tokens, sequences = (number_in(trained, f"{name}_per_second") for name in ("tokens", "sequences"))
        if tokens and sequences and length:
            entries["tokens in a sequence"] = round(tokens / sequences, 1)
            entries["padding"] = f"{100 * max(0.0, 1 - tokens / sequences / length):.1f}%"
            if per_update:
                entries["tokens seen"] = int(part.steps * per_update * tokens / sequences)
        for name, value in entries.items():
            if value:
                rows.setdefault(name, [""] * len(run.parts))[index] = short(value)
    if not rows:
        return None
    return page.table(f"Data{of}", ("", *(part.title for part in run.parts)),
                      [(name, *cells) for name, cells in rows.items()], range(1, len(run.parts) + 1))


def starts_table(run: Run, of: str) -> Markup:
    sessions = run.sessions
    if not sessions:
        return page.paragraph("When this run was started and stopped is not known: it has no logs/history.jsonl, which "
                              "runs of earlier releases did not write.")
    rows = []
    for session in sessions[-MOST_SESSIONS:]:
        start, end = session.start, session.end or {}
        began, ended = moment(text_in(start, "time")), moment(text_in(end, "time"))
        took = duration((ended - began).total_seconds()) if began and ended and began.tzinfo and ended.tzinfo else ""
        first, last = number_in(start, "step"), number_in(end, "step")
        rows.append((text_in(start, "time").replace("T", " "), str(session.phase),
                     "" if first is None else f"{first:,}" + (", resumed" if first else ""),
                     "" if last is None else f"{last:,}", session.reason, took, text_in(start, "host"),
                     str(number_in(start, "workers") or "")))
    left_out = f", the last {MOST_SESSIONS} of {len(sessions)}" if len(sessions) > MOST_SESSIONS else ""
    return page.table(f"Starts, interruptions and resumes{of}{left_out}", (
        "started", "phase", "from update", "to update", "ended", "time", "host", "workers"), rows, [4])


def what_ran(run: Run, number: int = 0, of: str = "") -> List[Markup]:
    """`number`: of the run on its page; `of`: see `settings_table`."""
    commands = [run.started(part).get("command") for part in run.parts]
    parts: List[Optional[Markup]] = [command_of(words) for words in commands if isinstance(words, list)]
    parts += [*settings_table(run.parts, f"options-{number}", of), data_table(run, of)]
    machine = [*run.machine.items(), *((name, version) for name, version in run.versions.items())]
    if machine:
        parts.append(page.table(f"Machine and versions{of}", ("", ""), machine, [1]))
    parts.append(live("starts", starts_table(run, of)))
    return [part for part in parts if part]


def differences(runs: Sequence[Run]) -> Markup:
    """The options in which the last phases of several runs differ."""
    names = dict.fromkeys(name for run in runs for name in run.config)
    rows = []
    for name in names:
        values = [shown(run.config[name]) if name in run.config else "" for run in runs]
        if len(set(values)) > 1:
            rows.append((f"--{name}", *values))
    if not rows:
        return page.paragraph("The options of these runs are the same.")
    return page.table("Options that differ between the runs", ("option", *names_of(runs)), rows,
                      range(1, len(runs) + 1))


# --- Sweeps ---


def sweep_label(row: dict, several: bool) -> str:
    known = ("run", "checkpoint", "phase", "step", "seed", "EM", "F1", "best F1", "seconds", "gone")
    settings = " ".join(f"{name} {value}" for name, value in row.items() if name not in known)
    return " ".join(filter(None, [str(row.get("run", "")) if several or not settings else "", settings])) or "F1"


def sweep_sections(run: Run) -> List[Section]:
    """F1 of the fine-tunings of checkpoints against the updates of pre-training, with the spread of the seeds."""
    rows = run.rows
    several = len({row.get("run") for row in rows}) > 1
    first_phase: Dict[str, int] = {}
    for row in rows:
        if row["phase"] == 1:
            first_phase[row.get("run", "")] = max(first_phase.get(row.get("run", ""), 0), int(row["step"]))
    lines: Dict[str, Dict[int, List[float]]] = {}
    table_rows = []
    for row in rows:
        step = int(row["step"]) + (first_phase.get(row.get("run", ""), 0) if row["phase"] == 2 else 0)
        lines.setdefault(sweep_label(row, several), {}).setdefault(step, []).append(row["F1"])
    ranked = sorted(lines, key=lambda label: -max(statistics.median(scores) for scores in lines[label].values()))
    series = []
    for number, label in enumerate(ranked[:MOST_LINES]):
        groups = sorted(lines[label].items())
        series.append({"label": label, "run": number, "heldOut": False, "x": [step for step, _ in groups],
                       "y": [statistics.median(scores) for _, scores in groups],
                       "low": [min(scores) for _, scores in groups], "high": [max(scores) for _, scores in groups]})
        table_rows += [(label, f"{step:,}", short(statistics.median(scores)), short(min(scores)), short(max(scores)),
                        str(len(scores))) for step, scores in groups]
    content = {"runs": ranked[:MOST_LINES], "unit": "update", "parts": [], "references": "",
               "last": max((entry["x"][-1] for entry in series), default=1),
               "charts": [{"key": "f1", "title": "F1 by updates of pre-training", "group": None, "percent": False,
                           "series": series, "references": []}] if series else []}
    best = max(rows, key=lambda row: row["F1"], default=None)
    numbers = [("Fine-tunings", str(len(rows)), "finished")]
    if best:
        numbers.append(("Best F1", short(best["F1"]), f"{best.get('run', '')} {best.get('checkpoint', '')}, seed "
                                                      f"{short(best.get('seed'))}"))
    intro = page.paragraph("The median over the seeds of each checkpoint; bars reach from the lowest to the highest. "
                           "Updates of phase 2 are counted after those of phase 1.")
    values = live("values-0", page.table("Values", ("", "updates", "median F1", "lowest", "highest", "seeds"),
                                         table_rows))
    return [Section("Overview", [*problems([run]), live("headlines", page.numbers(numbers))]),
            Section("F1 by updates", [intro, *charts(content), values], **drawing(content)) if series else
            Section("F1 by updates", [page.paragraph("No fine-tuning has finished yet.")])]


# --- Pages ---


def sections_of(runs: Sequence[Run], folder: Optional[str]) -> List[Section]:
    if len(runs) == 1 and runs[0].kind == "sweep":
        return sweep_sections(runs[0])
    if len(runs) == 1:
        run = runs[0]
        learnt = samples_page.section(run)
        return [overview(run, folder), *([curves_section(runs)] if run.parts else []), *([learnt] if learnt else []),
                Section("What ran", what_ran(run))]
    learnt = samples_page.side_by_side(runs, names_of(runs))
    return [runs_section(runs, folder), curves_section(runs), *([learnt] if learnt else []),
            Section("Differences", [differences(runs)]),
            *(Section(f"What ran: {name}", what_ran(run, number, f", {name}"))
              for number, (run, name) in enumerate(zip(runs, names_of(runs))))]


def render(runs: Sequence[Run], folder: Optional[str], refresh_seconds: int = 0) -> str:
    """The page of runs.

    Args:
        folder: where it will lie, for links to the pages of runs; None: it has none.
        refresh_seconds: see `page.render`.
    """
    title = f"{runs[0].name}: report" if len(runs) == 1 else f"{len(runs)} runs side by side"
    subtitle = ", ".join(filter(None, dict.fromkeys([KIND_NAMES[runs[0].kind], text_in(runs[0].config, "model_size"),
                                                     runs[0].machine.get("device", "")]))) if len(runs) == 1 else (
        ", ".join(names_of(runs)))
    return page.render(title, subtitle, sections_of(runs, folder),
                       "Written by the training commands and by report.py. The page holds all that it shows.",
                       refresh_seconds)


class Writer:
    """Writes the page of a run that trains; each call reads only what was logged since the last one.

    Args:
        folder, logs: of the run.
    """

    def __init__(self, folder: str, logs: Optional[str] = None):
        self.path, self._folder, self._logs, self._run = os.path.join(folder, NAME), folder, logs, None

    def __call__(self):
        """Raises: OSError: the page could not be made or written, whatever the reason: a run does not depend on it."""
        try:
            if self._run is None:
                self._run = Run(self._folder, self._logs)
            else:
                self._run.refresh()
            files.write_text(self.path, render([self._run], self._folder))
        except OSError:
            raise
        except Exception as error:
            raise OSError(None, f"its report: {configuration.in_short(error)}") from error


def write_or_warn(folder: str):
    """Writes the page of a run; what keeps it from being written is only a warning."""
    try:
        Writer(folder)()
    except OSError as error:
        logging.warning("warning: the report of the run could not be written (%s).", configuration.in_short(error))
