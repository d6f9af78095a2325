"""Error analysis of classification, regression and tagging, and two evaluations side by side; see analysis_parts.py.

run_tf_tasks.py writes analysis.html and analysis.json after every evaluation, from the predictions that it writes
(predictions_<split>.jsonl); analysis.py makes them for finished runs, and compares two. What one run has right and the
other has not: examples, or sentences all of whose tags are right; in regression, what has the smaller error.
"""
from __future__ import annotations

import contextlib
import glob
import os
from collections import Counter
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from absl import logging

import analysis_parts
import configuration
import page
import tagging
import task_metrics
from analysis_parts import WORST, in_brackets
from configuration import UserError
from page import Markup, Section, element

MOST_CLASSES = 25  # of a confusion matrix
MISSED, ELSEWHERE, INVENTED = "not found", "other boundaries", "not in the gold labels"
WORDS = {"accuracy": "accuracy", "micro_f1": "micro F1", "macro_f1": "macro F1", "f1": "F1", "matthews": "Matthews",
         "pearson": "Pearson", "spearman": "Spearman", "mean_squared_error": "mean squared error"}
# The score that is resampled, by kind.
RESAMPLED = {"single_label": "accuracy", "multi_label": "micro_f1", "regression": "pearson", "tags": "f1",
             "plain_tags": "accuracy"}


class Run(NamedTuple):
    """The predictions for a file. Labels are numbers of `names` (single_label), 0 and 1 by name (multi_label), numbers,
    or lists of tags, as in `task_metrics.scores`."""

    kind: str
    names: Tuple[str, ...]  # of labels
    entries: List[dict]
    predicted: Sequence
    gold: Sequence


# --- Files ---


def splits_of(folder: str) -> List[str]:
    """The splits of an output folder that predictions were written for."""
    found = glob.glob(os.path.join(glob.escape(folder), "predictions_*.jsonl"))
    return sorted(os.path.basename(path)[len("predictions_"):-len(".jsonl")] for path in found)


def read(folder: str, split: str) -> Optional[Run]:
    """The predictions for a split; None where an example has no label. Raises: UserError: the file is damaged."""
    path = os.path.join(folder, f"predictions_{split}.jsonl")
    entries = [(where, configuration.parse_json_object(line, where)) for where, line in configuration.read_lines(path)]
    if not entries:
        raise UserError(f"{path} holds no predictions: run the evaluation again.")
    if any("label" not in entry for _, entry in entries):
        return None
    kinds = {_kind(entry["label"], entry.get("prediction"), "words" in entry) for _, entry in entries}
    for where, entry in entries:
        if len(kinds) > 1 or None in kinds or not isinstance(entry.get("text"), str) or "id" not in entry:
            raise UserError(f"{where} is damaged, or its predictions are not of one kind: run the evaluation again.")
        if "words" in entry and not len(entry["words"]) == len(entry["label"]) == len(entry["prediction"]):
            raise UserError(f"{where} has other numbers of words and tags: run the evaluation again.")
    return run_of([entry for _, entry in entries], kinds.pop())


def _kind(label, prediction, has_words: bool) -> Optional[str]:
    def texts(value):
        return isinstance(value, list) and all(isinstance(part, str) for part in value)

    if has_words:
        return "tags" if texts(label) and texts(prediction) else None
    if texts(label) and texts(prediction):
        return "multi_label"
    if isinstance(label, str) and isinstance(prediction, str):
        return "single_label"
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (label, prediction))
    return "regression" if numbers else None


def run_of(entries: List[dict], kind: str) -> Run:
    """`kind`: as for `task_metrics.scores`; tags of any sort are `tags`."""
    predicted, gold = ([entry[key] for entry in entries] for key in ("prediction", "label"))
    if kind == "regression":
        return Run(kind, (), entries, np.array(predicted, float), np.array(gold, float))
    if kind in ("tags", "plain_tags"):
        names = sorted({tag for tags in (*predicted, *gold) for tag in tags})
        return Run("tags" if tagging.is_spans(names) else "plain_tags", tuple(names), entries, predicted, gold)
    shares = next((entry["probabilities"] for entry in entries if entry.get("probabilities")), {})
    used = {name for value in (*predicted, *gold) for name in (value if kind == "multi_label" else (value,))}
    names = (*shares, *sorted(used - set(shares)))
    if kind == "multi_label":
        predicted, gold = ([[int(name in value) for name in names] for value in values] for values in (predicted, gold))
        return Run(kind, names, entries, np.array(predicted), np.array(gold))
    number = {name: place for place, name in enumerate(names)}
    return Run(kind, names, entries, *(np.array([number[value] for value in values]) for values in (predicted, gold)))


# --- What an analysis says ---


def statistics(run: Run) -> np.ndarray:
    """What is summed over examples for `score_of`, float [examples, k]."""
    if run.kind == "single_label":
        return np.stack([run.predicted == run.gold, np.ones(len(run.gold))], axis=1).astype(float)
    if run.kind == "multi_label":
        return np.stack([part.sum(axis=1) for part in (run.predicted & run.gold, run.predicted, run.gold)],
                        axis=1).astype(float)
    if run.kind == "regression":
        x, y = run.predicted - run.predicted.mean(), run.gold - run.gold.mean()
        return np.stack([np.ones(len(x)), x, y, x * y, x * x, y * y], axis=1)
    if run.kind == "plain_tags":
        return np.array([(sum(a == b for a, b in zip(*pair)), len(pair[0])) for pair in zip(run.predicted, run.gold)],
                        float)
    spans = [[set(task_metrics.spans_of(tags)) for tags in lists] for lists in (run.predicted, run.gold)]
    return np.array([(len(found & gold), len(found), len(gold)) for found, gold in zip(*spans)], float)


def score_of(kind: str, sums: np.ndarray) -> np.ndarray:
    """The score RESAMPLED of a kind, in percent, from sums [..., k] of `statistics`; 0 where it has no value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "regression":
            n, x, y, xy, xx, yy = np.moveaxis(sums, -1, 0)
            found = (n * xy - x * y) / np.sqrt(np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0))
        elif sums.shape[-1] == 2:
            found = sums[..., 0] / sums[..., 1]
        else:
            found = 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])
    return 100 * np.nan_to_num(found)


def right(run: Run) -> np.ndarray:
    """Whether each example, or all tags of each sentence, is right: bool [examples]; none is in regression."""
    if run.kind == "multi_label":
        return (run.predicted == run.gold).all(axis=1)
    if run.kind == "regression":
        return np.zeros(len(run.gold), bool)
    return np.array([list(a) == list(b) if run.kind in ("tags", "plain_tags") else a == b
                     for a, b in zip(run.predicted, run.gold)])


def certainty(run: Run) -> Tuple[np.ndarray, np.ndarray]:
    """The probabilities of what was predicted, and whether it is right: of classes, of each label, or of each word."""
    shares = [entry.get("probabilities") for entry in run.entries]
    if run.kind == "regression" or not all(shares):
        return np.zeros(0), np.zeros(0)
    if run.kind == "single_label":
        return np.array([share[entry["prediction"]] for share, entry in zip(shares, run.entries)]), right(run)
    if run.kind == "multi_label":
        true = np.array([[share.get(name, 0.0) for name in run.names] for share in shares])
        return np.maximum(true, 1 - true).ravel(), (run.predicted == run.gold).ravel()
    return np.concatenate([np.array(share, float) for share in shares]), np.array(
        [a == b for pair in zip(run.predicted, run.gold) for a, b in zip(*pair)])


def confusion(run: Run) -> Dict[str, Dict[str, int]]:
    """How often each gold label, or type of span, was predicted as which; empty for several labels and numbers."""
    pairs: List[Tuple[str, str]] = []
    if run.kind == "single_label":
        pairs = [(run.names[gold], run.names[found]) for found, gold in zip(run.predicted, run.gold)]
    elif run.kind == "plain_tags":
        pairs = [(gold, found) for lists in zip(run.predicted, run.gold) for found, gold in zip(*lists)]
    elif run.kind == "tags":
        for lists in zip(run.predicted, run.gold):
            pairs += _span_pairs(*map(task_metrics.spans_of, lists))
    counts: Dict[str, Dict[str, int]] = {}
    for (gold, found), count in sorted(Counter(pairs).items()):
        counts.setdefault(gold, {})[found] = count
    return counts


def _span_pairs(found: List[tuple], gold: List[tuple]) -> List[Tuple[str, str]]:
    at, pairs = {span[1:]: span[0] for span in found}, []

    def overlap(span, others):
        return any(other[1] <= span[2] and span[1] <= other[2] for other in others)

    for span in gold:
        pairs.append((span[0], at.get(span[1:]) or (ELSEWHERE if overlap(span, found) else MISSED)))
    return pairs + [(INVENTED, span[0]) for span in found if not overlap(span, gold)]


def worst(run: Run) -> List[int]:
    """The indices of wrong predictions: the largest errors first, then those of the highest probability."""
    if run.kind == "regression":
        order = np.argsort(-np.abs(run.predicted - run.gold), kind="stable")
        return order[:WORST].tolist()
    shares = [entry.get("probabilities") or {} for entry in run.entries]
    if run.kind == "single_label":
        size = np.array([share.get(entry["prediction"], 0.0) for share, entry in zip(shares, run.entries)])
    elif run.kind == "multi_label":
        size = (run.predicted != run.gold).sum(axis=1).astype(float)
    else:
        size = np.array([sum(a != b for a, b in zip(*pair)) for pair in zip(run.predicted, run.gold)], float)
    is_right = right(run)
    return [index for index in np.argsort(-size, kind="stable").tolist() if not is_right[index]][:WORST]


def groups_of(run: Run) -> Dict[str, List[int]]:
    """Examples by the length of their text: name of a group -> indices."""
    lengths = [len(entry["text"]) + len(entry.get("pair") or "") for entry in run.entries]
    name, groups = analysis_parts.fifths(lengths), {}
    for index in np.argsort(lengths, kind="stable").tolist():
        groups.setdefault(name(lengths[index]), []).append(index)
    return groups


def analyse(run: Run) -> dict:
    """The content of analysis.json."""
    table, score = statistics(run), RESAMPLED[run.kind]
    bins, error = analysis_parts.calibration_bins(*certainty(run))
    return {
        "kind": run.kind, "examples": len(run.entries),
        "scores": task_metrics.scores(run.kind, run.predicted, run.gold), "resampled": score,
        "interval": analysis_parts.interval_of(lambda sums: score_of(run.kind, sums), table),
        "classes": [] if run.kind == "regression" else [row._asdict() for row in task_metrics.by_class(
            run.kind, run.predicted, run.gold, run.names)],
        "confusion": confusion(run),
        "groups": {name: {"examples": len(rows), score: float(score_of(run.kind, table[rows].sum(axis=0)))}
                   for name, rows in groups_of(run).items()},
        "calibration": {"expected_calibration_error": error, "bins": [list(row) for row in bins]},
        "worst": [run.entries[index]["id"] for index in worst(run)]}


# --- The page ---


def scores_section(content: dict) -> Section:
    score = content["resampled"]
    return Section("Scores", [page.numbers([
        (WORDS.get(name, name)[0].upper() + WORDS.get(name, name)[1:],
         f"{value:.4g}" if name == "mean_squared_error" else f"{value:.2f}",
         in_brackets(content["interval"]) if name == score else "")
        for name, value in sorted(content["scores"].items(), key=lambda item: item[0] != score)])])


def class_table(content: dict) -> Markup:
    rows = [(row["name"], str(row["support"]), str(row["predicted"]), f"{row['precision']:.1f}", f"{row['recall']:.1f}",
             page.bar(row["f1"])) for row in content["classes"]]
    return page.table("By class", ("", "gold", "predicted", "precision", "recall", "F1"), rows)


def confusion_section(content: dict) -> Section:
    counts = content["confusion"]
    totals = Counter({name: sum(row.values()) for name, row in counts.items()})
    for row in counts.values():
        totals.update({name: 0 for name in row})
    special = (MISSED, ELSEWHERE, INVENTED)
    shown = [name for name, _ in totals.most_common() if name not in special][:MOST_CLASSES]
    golds = [*shown, *(name for name in special if name in counts)]
    found = [*shown, *(name for name in special if any(name in row for row in counts.values()))]
    rows = []
    for gold in golds:
        row = counts.get(gold, {})
        cells = [element("strong", str(row[name])) if name == gold and name in row else str(row.get(name, 0) or "")
                 for name in found]
        rows.append((gold, *cells))
    left = len(totals) - len([name for name in totals if name in special]) - len(shown)
    more = f" The {len(shown)} most frequent classes; {left} are left out." if left > 0 else ""
    return Section("Confusion", [page.paragraph(f"Rows are gold labels, columns predictions.{more}"),
                                 page.table("Gold labels and predictions", ("", *found), rows)])


def regression_section(run: Run) -> Section:
    def draw(axes):
        axes.scatter(run.gold, run.predicted, s=9, color=page.SERIES[0], alpha=0.5)
        low, high = float(run.gold.min()), float(run.gold.max())
        axes.plot([low, high], [low, high], color=page.SERIES[2], linestyle="--", linewidth=1)
        axes.set(xlabel="gold", ylabel="predicted")

    return Section("Predictions", [page.plot(draw, "Predicted by gold numbers.",
                                             "Predicted by gold numbers; dashed: equal.", "numbers")])


def spans_of(entry: dict, tags: Sequence[str], plain: bool) -> List[tagging.Span]:
    sentence = tagging.joined(entry["words"], None, "", "")
    return tagging.spans_in(sentence, tags, plain)


def said(run: Run, entry: dict, key: str) -> str:
    value = entry[key]
    if run.kind == "regression":
        return f"{value:.4g}"
    if run.kind in ("tags", "plain_tags"):
        spans = spans_of(entry, value, run.kind == "plain_tags")
        return "; ".join(f"{span.text} ({span.label})" for span in spans) or "nothing"
    return value if isinstance(value, str) else ", ".join(value) or "none"


def article(runs: Sequence[Run], index: int, names: Sequence[str] = ("Predicted",)) -> Markup:
    """An example, and what each of the runs predicts for it."""
    first = runs[0].entries[index]
    facts, lines = [str(first["id"])], []
    for name, run in zip(names, runs):
        entry = run.entries[index]
        shares = entry.get("probabilities")
        sure = f" ({shares[entry['prediction']]:.0%})" if run.kind == "single_label" and shares else ""
        lines += [element("strong", f"{name}: "), f"{said(run, entry, 'prediction')}{sure}\n"]
    lines += [element("strong", "Gold: "), said(runs[0], first, "label")]
    if runs[0].kind in ("tags", "plain_tags"):
        plain, text = runs[0].kind == "plain_tags", " ".join(first["words"])
        spans = [("gold", (span.start, span.end)) for span in spans_of(first, first["label"], plain)]
        spans += [("predicted", (span.start, span.end)) for run in runs
                  for span in spans_of(run.entries[index], run.entries[index]["prediction"], plain)]
        body = analysis_parts.marked(text, [] if plain else spans)
    else:
        body = page.join([first["text"], "\n— ", first["pair"]]) if first.get("pair") else page.escape(first["text"])
    return element("article", element("p", body), element("p", *lines), element("p", " · ".join(facts), class_="facts"))


def render(name: str, run: Run, content: dict) -> str:
    """analysis.html."""
    wrong = worst(run)
    score = content["resampled"]
    lengths = page.table("Length of the text (characters)", ("", "examples", WORDS[score]), [
        (group, str(row["examples"]), page.bar(row[score])) for group, row in content["groups"].items()])
    unit = {"single_label": "examples", "multi_label": "labels"}.get(run.kind, "words")
    error = content["calibration"]["expected_calibration_error"]
    calibrated = [] if run.kind == "regression" else [analysis_parts.calibration_section(
        f"How often is a prediction of a given probability right? Counted are {unit}. On the diagonal, probabilities "
        f"can be taken at their word. The expected calibration error is {error:.3f}.",
        [tuple(row) for row in content["calibration"]["bins"]], "accuracy", unit)]
    order = {"regression": "The largest error first.", "single_label": "What the model was most certain of first."}.get(
        run.kind, "The most errors first.")
    return page.render(f"Error analysis of {name}", f"{content['examples']} examples, {run.kind.replace('_', ' ')}", [
        scores_section(content),
        Section("Where it fails", [*([class_table(content)] if content["classes"] else []), lengths]),
        *([confusion_section(content)] if content["confusion"] else []),
        *([regression_section(run)] if run.kind == "regression" else []),
        *calibrated,
        Section(f"The worst {len(wrong)}" if wrong else "The worst", [
            page.paragraph(order), *([analysis_parts.LEGEND] if run.kind == "tags" else []),
            *(article([run], index) for index in wrong)])],
        "Written by run_tf_tasks.py or analysis.py; analysis.json beside this page has the numbers.")


def file_name(split: str) -> str:
    return "analysis" if split in ("dev", "dev_matched") else f"analysis_{split}"


def write(folder: str, split: str, run: Run) -> str:
    """The page and its numbers. Returns: the path of the page. Raises: OSError."""
    content, name = analyse(run), os.path.basename(os.path.abspath(folder))
    return analysis_parts.write(folder, file_name(split), render(name, run, content), content)


def write_after_evaluation(folder: str, split: str, kind: str, entries: List[dict]):
    """Writes the analysis of predictions in an output folder; what keeps it from being written is only a warning."""
    with analysis_parts.only_warning():
        logging.info("the error analysis is %s.", write(folder, split, run_of(entries, kind)))


def remove(folder: str, split: str):
    """Removes the analysis of earlier predictions."""
    for extension in ("html", "json"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, f"{file_name(split)}.{extension}"))


# --- Two runs ---


def decided(first: Run, second: Run) -> Tuple[List[int], List[int]]:
    """The examples that the second run has right and the first one not, and the reverse; in regression, those with the
    smaller error, the largest difference first."""
    if first.kind == "regression":
        gain = np.abs(first.predicted - first.gold) - np.abs(second.predicted - second.gold)
    else:
        gain = right(second).astype(float) - right(first)
    order = np.argsort(-np.abs(gain), kind="stable").tolist()
    return [index for index in order if gain[index] > 0], [index for index in order if gain[index] < 0]


def compare(first: Run, second: Run) -> dict:
    """The content of comparison.json: the second run against the first."""
    tables = [statistics(run) for run in (first, second)]
    score, (won, lost) = RESAMPLED[first.kind], decided(first, second)
    return {"kind": first.kind, "examples": len(first.entries), "score": score,
            "difference": float(np.subtract(*(score_of(first.kind, table.sum(axis=0)) for table in tables[::-1]))),
            "interval": analysis_parts.interval_of(lambda sums: score_of(first.kind, sums), *tables),
            "examples_won": len(won), "examples_lost": len(lost),
            "mcnemar_p": analysis_parts.mcnemar(len(won), len(lost)),
            "won": [first.entries[index]["id"] for index in won],
            "lost": [first.entries[index]["id"] for index in lost]}


def render_comparison(names: Sequence[str], runs: Sequence[Run], contents: Sequence[dict], compared: dict) -> str:
    """comparison.html."""
    (low, high), score = compared["interval"], compared["score"]
    verdict = "it contains 0" if low <= 0 <= high else f"the {'second' if low > 0 else 'first'} run is better"
    sections = [Section("Scores", [page.numbers([
        *((f"{word} run", f"{content['scores'][score]:.2f}", WORDS[score])
          for word, content in zip(("First", "Second"), contents)),
        ("Difference", f"{compared['difference']:+.2f}", f"95% interval {low:+.2f} to {high:+.2f}, {verdict}"),
        ("Won / lost", f"{compared['examples_won']} / {compared['examples_lost']}",
         f"McNemar's exact test: p = {compared['mcnemar_p']:.3g}")])])]
    if contents[0]["classes"]:
        second = {row["name"]: row["f1"] for row in contents[1]["classes"]}
        sections.append(Section("By class", [page.table("F1 by class", ("", "gold", "first", "second", "difference"), [
            (row["name"], str(row["support"]), f"{row['f1']:.1f}", f"{second.get(row['name'], 0.0):.1f}",
             f"{second.get(row['name'], 0.0) - row['f1']:+.1f}") for row in contents[0]["classes"]])]))
    for word, rows in zip(("Won", "Lost"), decided(*runs)):
        sections.append(Section(f"{word} ({len(rows)})", [article(runs, index, names) for index in rows[:WORST]]))
    return page.render(f"{names[1]} against {names[0]}", f"first: {names[0]}, second: {names[1]}", sections,
                       f"{WORST} of won and lost at most; comparison.json has all.")


# --- The command (analysis.py) ---


def analyse_folders(folders: Sequence[str], names: Sequence[str]):
    """Writes the analyses of an output folder of run_tf_tasks.py, or the comparison of two. Raises: UserError."""
    if len(folders) == 1:
        runs = {split: read(folders[0], split) for split in splits_of(folders[0])}
        if not any(runs.values()):
            raise UserError(f"--runs: the predictions in {folders[0]} have no gold labels: evaluate on data with "
                            "labels (run_tf_tasks.py --do_eval).")
        for split, run in runs.items():
            if run:
                score = RESAMPLED[run.kind]
                value = task_metrics.scores(run.kind, run.predicted, run.gold)[score]
                print(f"{names[0]}, {split}: {WORDS[score]} {value:.2f}\n{write(folders[0], split, run)}")
        return
    common = [split for split in splits_of(folders[0]) if split in splits_of(folders[1])]
    for split in common:
        runs = [read(folder, split) for folder in folders]
        if all(runs):
            print(_compare(folders, names, split, runs))
            return
    raise UserError(f"--runs: {folders[0]} and {folders[1]} have no predictions for the same split with labels: "
                    "evaluate both (run_tf_tasks.py --do_eval).")


def _compare(folders: Sequence[str], names: Sequence[str], split: str, runs: Sequence[Run]) -> str:
    asked = [[(entry["id"], entry["text"], entry.get("pair"), entry["label"]) for entry in run.entries] for run in runs]
    if asked[0] != asked[1] or runs[0].kind != runs[1].kind:
        raise UserError(f"--runs: {folders[0]} and {folders[1]} predict other examples: compare runs of one file.")
    compared = compare(*runs)
    text = render_comparison(names, runs, [analyse(run) for run in runs], compared)
    low, high = compared["interval"]
    print(f"second minus first: {WORDS[compared['score']]} {compared['difference']:+.2f} ({low:+.2f} to {high:+.2f}); "
          f"{compared['examples_won']} won, {compared['examples_lost']} lost, p = {compared['mcnemar_p']:.3g}")
    return analysis_parts.write(folders[0], "comparison", text, {"runs": list(folders), "split": split, **compared})
