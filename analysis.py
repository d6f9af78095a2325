"""Error analysis of answers to SQuAD questions, and two evaluations side by side.

    python analysis.py --runs=results/squad
    python analysis.py --runs=results/squad,results/squad2 [--predict_file=dev-v1.1.json]

run_tf_squad.py writes analysis.html and analysis.json after every evaluation. For finished runs this command makes them
from predictions.json, nbest_predictions.json, null_odds.json (2.0) and the questions; of two runs it writes
comparison.html and comparison.json to the folder of the first one. For runs of run_tf_tasks.py see task_analysis.py.

Intervals are 95% bootstrap intervals over questions (Efron 1979; 2,000 resamples, seed 0, of the differences where runs
are compared). Whether one run has more exact matches is McNemar's test in its exact form: a two-sided binomial test of
the questions that only one of them has right. Calibration: the expected calibration error of Naeini et al. 2015 of the
probability that the answer is an exact match, over the answered questions.
"""
from __future__ import annotations

import contextlib
import os
import re
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import command_line
from configuration import UserError
from squad_options import AnalysisConfig, SquadConfig

if __name__ == "__main__":
    command_line.refuse_early(AnalysisConfig, __doc__)

import numpy as np
from absl import logging

import configuration
import page
import squad_metrics
import squad_results
import squad_utils
import task_analysis
from analysis_parts import (
    LEGEND,
    WORST,
    calibration_bins,
    calibration_section,
    fifths,
    in_brackets,
    interval,
    marked,
    mcnemar,
    only_warning,
    percent,
    write,
)
from page import Markup, Section, element
from squad_utils import Example

LAST = ("other", "no answer", "not in the context")  # of the groups
SAID = ("answered", "left unanswered")

# --- Questions ---


class Question(NamedTuple):
    """A question, its answers and how they score, 0 to 1."""

    example: Example
    predicted: str
    span: Optional[Tuple[int, int]]  # of the prediction in the context; None where it is empty
    exact: float
    f1: float
    raw_exact: float  # of the best answer, whatever its null odds
    raw_f1: float
    probability: float  # of the best answer
    null_odds: Optional[float]  # in 2.0
    answer_length: int  # tokens of the metric, of the first gold answer; 0: unanswerable

    @property
    def answerable(self) -> bool:
        return bool(self.example.answers)


def score(config: SquadConfig, examples: Sequence[Example], answers: squad_results.Answers) -> List[Question]:
    metric, version_2 = squad_metrics.named(config.metric, config.language), config.version_2_with_negative
    predictions = answers.predictions(config)
    exact, f1 = squad_metrics.score_each(examples, predictions, version_2, metric)
    raw_exact, raw_f1 = exact, f1
    if version_2:
        raw_exact, raw_f1 = squad_metrics.score_each(
            examples, squad_utils.predictions(answers.nbest, answers.null_odds), version_2, metric)
    found = []
    for example in examples:
        best = answers.nbest[example.id][0]
        gold = metric.normalize(example.answers[0][0]) if example.answers else ""
        found.append(Question(
            example, predictions[example.id], (best.start, best.end) if predictions[example.id] else None,
            exact[example.id], f1[example.id], raw_exact[example.id], raw_f1[example.id], best.probability,
            answers.null_odds.get(example.id), metric.overlap(gold, gold)[2]))
    return found


# --- Groups ---

QUESTION_WORDS = {
    "how many": r"how (?:many|much)|wie ?viele?|cuánt[oa]s?|多少|几",
    "who": r"who|whom|whose|wer|wen|wem|wessen|quién(?:es)?|谁",
    "when": r"when|what (?:year|date|day|month|century|time)|wann|cuándo|何时|什么时候|哪一?年",
    "where": r"where|wo|wohin|woher|dónde|哪里|哪儿|何处|什么地方",
    "why": r"why|warum|weshalb|wieso|por qué|为什么|为何",
    "which": r"which|welche[rsmn]?|cuál(?:es)?|哪",
    "how": r"how|wie|cómo|怎么|怎样|如何",
    "what": r"what|was|qué|什么|何"}
_PATTERNS = {name: re.compile("|".join(rf"\b(?:{part})\b" if part[0] < "\u2e80" else part for part in _split))
             for name, _split in ((name, re.split(r"\|(?![^(]*\))", words)) for name, words in QUESTION_WORDS.items())}


def question_word(question: str) -> str:
    """The kind of a question in English, German, Spanish or Chinese: the one whose word comes first, else `other`."""
    found = [(match.start(), order, name) for order, (name, pattern) in enumerate(_PATTERNS.items())
             for match in [pattern.search(question.lower())] if match]
    return min(found)[2] if found else "other"


def answer_length(question: Question) -> str:
    length = question.answer_length
    if not question.answerable:
        return "no answer"
    return next((name for most, name in ((1, "1"), (2, "2"), (3, "3"), (5, "4–5"), (10, "6–10"))
                 if length <= most), "over 10")


def start_of(example: Example, text: str, start: int) -> int:
    """Where an answer starts: at its offset or, where that is wrong or unknown, at its first occurrence; else -1."""
    return start if start >= 0 and example.context.startswith(text, start) else example.context.find(text)


def answer_position(question: Question) -> str:
    """In which fifth of the context the first gold answer starts."""
    if not question.answerable:
        return "no answer"
    start = start_of(question.example, *question.example.answers[0])
    if start < 0:
        return "not in the context"
    fifth = min(4, int(5 * start / max(1, len(question.example.context))))
    return f"{20 * fifth}–{20 * fifth + 20}%"


def context_length(questions: Sequence[Question]) -> Callable[[Question], str]:
    """Names a question's fifth by the length of its context: five groups of about equal size."""
    name = fifths([len(question.example.context) for question in questions])
    return lambda question: name(len(question.example.context))


def answerability(question: Question) -> str:
    return "answerable" if question.answerable else "unanswerable"


def groups_of(questions: Sequence[Question]) -> Dict[str, Dict[str, List[int]]]:
    """The groupings of a page: title -> name of a group -> indices of its questions."""
    groupings = {"Question word": lambda question: question_word(question.example.question),
                 "Answer length (tokens of the first gold answer)": answer_length,
                 "Context length (characters)": context_length(questions),
                 "Position of the answer in the context": answer_position}
    if questions[0].null_odds is not None:
        groupings["Answerability"] = answerability
    found = {}
    for title, name_of in groupings.items():
        groups: Dict[str, List[int]] = {}
        for index, question in enumerate(questions):
            groups.setdefault(name_of(question), []).append(index)
        by_size = title == "Question word"
        order = sorted(groups, key=lambda name: (name in LAST, -len(groups[name]) if by_size else
                                                 [int(part) for part in re.findall(r"\d+", name)] or [0],
                                                 name.startswith("over")))
        found[title] = {name: groups[name] for name in order}
    return found


# --- What an analysis says ---


def threshold_curve(questions: Sequence[Question]) -> Dict[str, List[float]]:
    """F1 and exact match by threshold on the null odds, in percent, at 200 thresholds or fewer."""
    odds = np.array([question.null_odds for question in questions])
    order = np.argsort(odds, kind="stable")
    no_answer = np.array([not question.answerable for question in questions], float)
    thresholds = np.unique(odds)
    done = np.searchsorted(odds[order], thresholds, side="right")  # questions that are answered
    kept = np.unique(np.linspace(0, len(thresholds) - 1, 200).astype(int))
    curve = {"threshold": thresholds[kept].tolist()}
    for name, values in (("f1", [question.raw_f1 for question in questions]),
                         ("exact", [question.raw_exact for question in questions])):
        gains = np.concatenate([[0.0], np.cumsum((np.array(values) - no_answer)[order])])
        curve[name] = (100.0 * (no_answer.sum() + gains[done[kept]]) / len(questions)).tolist()
    return curve


def confusion(questions: Sequence[Question]) -> Dict[str, int]:
    counts = {f"{gold}, {said}": 0 for gold in ("answerable", "unanswerable") for said in SAID}
    for question in questions:
        counts[f"{answerability(question)}, {SAID[0] if question.predicted else SAID[1]}"] += 1
    return counts


def calibration(questions: Sequence[Question]) -> dict:
    """Of the answered questions: by bin of the probability, its mean and the share of exact matches."""
    answered = [question for question in questions if question.predicted]
    bins, error = calibration_bins([question.probability for question in answered],
                                   [question.exact for question in answered])
    return {"answered": len(answered), "expected_calibration_error": error, "bins": [
        {"probability": probability, "exact": exact, "questions": count} for probability, exact, count in bins]}


def worst(questions: Sequence[Question]) -> List[int]:
    """The indices of the lowest F1, those with the highest probability first."""
    wrong = [index for index, question in enumerate(questions) if question.f1 < 1.0]
    certainty = [question.probability if question.predicted else 0.0 for question in questions]
    return sorted(wrong, key=lambda index: (questions[index].f1, -certainty[index]))[:WORST]


def analyse(config: SquadConfig, questions: Sequence[Question]) -> dict:
    """The content of analysis.json."""
    exact, f1 = [question.exact for question in questions], [question.f1 for question in questions]
    content = {
        "questions": len(questions), "metric": config.metric, "language": config.language,
        "exact": percent(exact), "exact_interval": interval(exact), "f1": percent(f1), "f1_interval": interval(f1),
        "groups": {title: {name: {"questions": len(rows), "exact": percent([exact[i] for i in rows]),
                                  "f1": percent([f1[i] for i in rows])} for name, rows in groups.items()}
                   for title, groups in groups_of(questions).items()},
        "calibration": calibration(questions),
        "worst": [questions[index].example.id for index in worst(questions)]}
    if config.version_2_with_negative:
        content["answerability"] = {"threshold": config.null_score_diff_threshold, "confusion": confusion(questions),
                                    "curve": threshold_curve(questions)}
    return content


# --- The page ---


def marked_context(question: Question, others: Sequence[Tuple[str, Optional[Tuple[int, int]]]], around: int = 400
                   ) -> Markup:
    """The context around the answers, with the gold answers and the spans of `others` (CSS class, span) marked."""
    context, spans = question.example.context, [(name, span) for name, span in others if span]
    for text, start in dict.fromkeys(question.example.answers):
        start = start_of(question.example, text, start)
        if text and start >= 0:
            spans.append(("gold", (start, start + len(text))))
    return marked(context, spans, around)


def shown(text: str) -> str:
    return f"“{text}”" if text else "no answer"


def golds(question: Question) -> str:
    return ", ".join(dict.fromkeys(shown(text) for text, _ in question.example.answers)) or "no answer"


def article(question: Question) -> Markup:
    facts = [f"F1 {100 * question.f1:.0f}"]
    if question.predicted:
        facts.append(f"probability {question.probability:.0%}")
    if question.null_odds is not None:
        facts.append(f"null odds {question.null_odds:.2f}")
    return element(
        "article", element("h3", question.example.question),
        element("p", " · ".join([*facts, question.example.id]), class_="facts"),
        element("p", element("strong", "Predicted: "), shown(question.predicted), element("strong", "\nGold: "),
                golds(question)),
        element("p", marked_context(question, [("predicted", question.span)])))


def group_tables(content: dict) -> Markup:
    return page.columns(*(page.table(title, ("", "questions", "EM", "F1"), [
        (name, str(row["questions"]), f"{row['exact']:.1f}", page.bar(row["f1"])) for name, row in groups.items()])
        for title, groups in content["groups"].items()))


def calibrated(content: dict) -> Section:
    found = content["calibration"]
    return calibration_section(
        f"Of the {found['answered']} answered questions, how often is an answer of a given probability an exact match? "
        "On the diagonal, probabilities can be taken at their word. The expected calibration error is "
        f"{found['expected_calibration_error']:.3f}.",
        [(row["probability"], row["exact"], row["questions"]) for row in found["bins"]], "exact match", "questions")


def answerability_section(content: dict) -> Section:
    found, curve = content["answerability"], content["answerability"]["curve"]
    counts, chosen = found["confusion"], found["threshold"]
    best = int(np.argmax(curve["f1"]))

    def draw(axes):
        axes.plot(curve["threshold"], curve["f1"], color=page.SERIES[0], label="F1")
        axes.plot(curve["threshold"], curve["exact"], color=page.SERIES[1], linestyle="-.", label="EM")
        axes.axvline(chosen, color=page.SERIES[2], linestyle="--", linewidth=1, label=f"chosen: {chosen:g}")
        axes.set(xlabel="threshold on the null odds", ylabel="%")
        axes.legend()

    return Section("Answerability", [
        page.paragraph(f"A question is left unanswered where its null odds exceed the threshold, {chosen:g}. The best "
                       f"F1 of the curve, {curve['f1'][best]:.1f}, is at {curve['threshold'][best]:.3f}."),
        page.columns(
            page.table("At the chosen threshold", ("", *SAID), [
                (gold, *(str(counts[f"{gold}, {said}"]) for said in SAID))
                for gold in ("answerable", "unanswerable")]),
            page.plot(draw, "F1 and exact match by threshold on the null odds.", "F1 and exact match by threshold.",
                      "threshold"))])


def scored_on(content: dict) -> str:
    language = f" ({content['language']})" if content["language"] else ""
    return f"{content['questions']} questions, metric {content['metric']}{language}"


def render(name: str, questions: Sequence[Question], content: dict) -> str:
    """analysis.html."""
    wrong = [questions[index] for index in worst(questions)]
    return page.render(f"Error analysis of {name}", scored_on(content), [
        Section("Scores", [page.numbers([
            ("Exact match", f"{content['exact']:.2f}", in_brackets(content["exact_interval"])),
            ("F1", f"{content['f1']:.2f}", in_brackets(content["f1_interval"])),
            ("Calibration error", f"{content['calibration']['expected_calibration_error']:.3f}",
             "of the answered questions, see below")])]),
        Section("Where it fails", [group_tables(content)]),
        *([answerability_section(content)] if "answerability" in content else []),
        calibrated(content),
        Section(f"The worst {len(wrong)}" if wrong else "The worst", [
            page.paragraph("The lowest F1 first and, of equal ones, what the model was most certain of."), LEGEND,
            *map(article, wrong)])],
        "Written by run_tf_squad.py or analysis.py; analysis.json beside this page has the numbers.")


def write_after_evaluation(config: SquadConfig, examples: Sequence[Example], answers: squad_results.Answers):
    """analysis.html and analysis.json in output_dir; what keeps them from being written is only a warning."""
    questions = score(config, examples, answers)
    content = analyse(config, questions)
    with only_warning():
        name = os.path.basename(os.path.abspath(config.output_dir))
        path = write(config.output_dir, "analysis", render(name, questions, content), content)
        logging.info("the error analysis is %s.", path)


def remove(folder: str):
    """Removes the analysis of earlier answers."""
    for name in ("analysis.html", "analysis.json"):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(folder, name))


# --- Two runs ---


def compare(first: Sequence[Question], second: Sequence[Question]) -> dict:
    """The content of comparison.json: the second run against the first."""
    gains = [b.f1 - a.f1 for a, b in zip(first, second)]
    won, lost = (sum(b.exact - a.exact == sign for a, b in zip(first, second)) for sign in (1, -1))
    by_gain = sorted(range(len(gains)), key=lambda index: -abs(gains[index]))
    return {
        "questions": len(first), "f1_difference": percent(gains), "f1_interval": interval(gains),
        "exact_difference": percent([b.exact - a.exact for a, b in zip(first, second)]),
        "exact_won": won, "exact_lost": lost, "mcnemar_p": mcnemar(won, lost),
        "won": [first[index].example.id for index in by_gain if gains[index] > 0],
        "lost": [first[index].example.id for index in by_gain if gains[index] < 0]}


def comparison_article(a: Question, b: Question, names: Sequence[str]) -> Markup:
    return element(
        "article", element("h3", a.example.question),
        element("p", f"{a.example.id} · gold: {golds(a)}", class_="facts"),
        element("p", *(part for name, question in zip(names, (a, b)) for part in (
            element("strong", f"{name}: "), f"{shown(question.predicted)}, F1 {100 * question.f1:.0f}\n"))),
        element("p", marked_context(a, [("predicted", a.span), ("predicted", b.span)])))


def render_comparison(names: Sequence[str], runs: Sequence[Sequence[Question]], contents: Sequence[dict], compared: dict
                      ) -> str:
    """comparison.html."""
    first, second = runs
    index_of = {question.example.id: index for index, question in enumerate(first)}
    low, high = compared["f1_interval"]
    verdict = "it contains 0" if low <= 0 <= high else f"the {'second' if low > 0 else 'first'} run is better"
    tables = []
    for title, groups in groups_of(first).items():
        rows = []
        for name, indices in groups.items():
            a, b = (percent([run[index].f1 for index in indices]) for run in runs)
            rows.append((name, str(len(indices)), f"{a:.1f}", f"{b:.1f}", f"{round(b - a, 1) + 0.0:+.1f}"))
        tables.append(page.table(title, ("", "questions", "F1 first", "F1 second", "difference"), rows))

    def articles(ids):
        return [comparison_article(first[index_of[id_]], second[index_of[id_]], names) for id_ in ids[:WORST]]

    subtitle = f"{scored_on(contents[0])}; first: {names[0]}, second: {names[1]}"
    return page.render(f"{names[1]} against {names[0]}", subtitle, [
        Section("Scores", [page.numbers([
            *((f"{word} run", f"F1 {content['f1']:.2f}", f"EM {content['exact']:.2f}")
              for word, content in zip(("First", "Second"), contents)),
            ("Difference of F1", f"{compared['f1_difference']:+.2f}",
             f"95% interval {low:+.2f} to {high:+.2f}, {verdict}"),
            ("Exact matches won / lost", f"{compared['exact_won']} / {compared['exact_lost']}",
             f"McNemar's exact test: p = {compared['mcnemar_p']:.3g}")])]),
        Section("By kind of question", [page.columns(*tables)]),
        Section(f"Won ({len(compared['won'])})", [LEGEND, *articles(compared["won"])]),
        Section(f"Lost ({len(compared['lost'])})", [LEGEND, *articles(compared["lost"])])],
        f"Won and lost are by F1, the largest difference first, {WORST} of each at most; comparison.json has all.")


# --- The command ---


def settings_of(folder: str, config: AnalysisConfig) -> SquadConfig:
    """How a run was evaluated: as its results.json says, unless an option says otherwise. Raises: UserError."""
    path = os.path.join(folder, "results.json")
    kinds = {**dict.fromkeys(("predict_file", "metric", "language"), (str, type(None))),
             "null_score_diff_threshold": (int, float, type(None))}
    recorded = configuration.read_record(path, "delete it, and name the questions with --predict_file", **kinds) if (
        os.path.lexists(path)) else {}
    given = {name: getattr(config, name) for name in ("predict_file", "metric", "language")
             if getattr(config, name) is not None}
    if "metric" in given:
        recorded.pop("language", None)
    found = {**{name: recorded[name] for name in ("predict_file", "metric", "language") if recorded.get(name)}, **given}
    if "predict_file" not in found:
        raise UserError(f"{path} does not say which questions were answered: name their file with --predict_file.")
    if not os.path.isfile(found["predict_file"]):
        raise UserError(f"{found['predict_file']}, the questions of {folder}, does not exist: name their file with "
                        "--predict_file.")
    threshold = config.null_score_diff_threshold
    if threshold is None:
        threshold = recorded.get("null_score_diff_threshold") or 0.0
    return SquadConfig(do_eval=True, output_dir=folder, null_score_diff_threshold=threshold,
                       version_2_with_negative=bool(recorded.get("version_2", config.version_2_with_negative)), **found)


def read_run(folder: str, config: AnalysisConfig) -> Tuple[SquadConfig, List[Question]]:
    """Raises: UserError."""
    if not os.path.isfile(os.path.join(folder, squad_results.N_BEST)):
        raise UserError(f"--runs: {folder} has no {squad_results.N_BEST}: name output folders of run_tf_squad.py.")
    settings = settings_of(folder, config)
    examples = squad_utils.read_squad(settings.predict_file, settings.version_2_with_negative,
                                      offsets=squad_utils.Offsets.IGNORE)
    answers = squad_results.read(folder, examples, settings.version_2_with_negative, settings.predict_file)
    return settings, score(settings, examples, answers)


def names_of(folders: Sequence[str]) -> List[str]:
    """Short names that differ."""
    names = [os.path.basename(os.path.abspath(folder)) for folder in folders]
    return names if len(set(names)) == len(names) else list(folders)


def main(argv):
    config = command_line.parse(AnalysisConfig, argv, __doc__)
    folders = config.folders
    of_tasks = [bool(task_analysis.splits_of(folder)) for folder in folders]
    if any(of_tasks):
        if not all(of_tasks):
            raise UserError(f"--runs={config.runs}: one is of run_tf_tasks.py and one is not: compare runs of one "
                            "kind.")
        task_analysis.analyse_folders(folders, names_of(folders))
        return
    runs = [read_run(folder, config) for folder in folders]
    contents = [analyse(*run) for run in runs]
    names = names_of(folders)
    for name, content in zip(names, contents):
        print(f"{name}: EM {content['exact']:.2f}  F1 {content['f1']:.2f}")
    if len(runs) == 1:
        print(write(folders[0], "analysis", render(names[0], runs[0][1], contents[0]), contents[0]))
        return
    if [question.example for question in runs[0][1]] != [question.example for question in runs[1][1]]:
        raise UserError(f"--runs: {folders[0]} and {folders[1]} answer different questions: compare runs of one file.")
    compared = compare(runs[0][1], runs[1][1])
    text = render_comparison(names, [run for _, run in runs], contents, compared)
    low, high = compared["f1_interval"]
    print(f"second minus first: F1 {compared['f1_difference']:+.2f} ({low:+.2f} to {high:+.2f}); exact matches: "
          f"{compared['exact_won']} won, {compared['exact_lost']} lost, p = {compared['mcnemar_p']:.3g}")
    print(write(folders[0], "comparison", text, {"runs": list(folders), **compared}))


if __name__ == "__main__":
    command_line.run_command(main)
