"""The files of an evaluation: predictions.json, nbest_predictions.json and, in 2.0, null_odds.json."""
from __future__ import annotations

import json
import os
from typing import Dict, List, NamedTuple, Sequence

import configuration
import files
import squad_metrics
import squad_utils
from configuration import UserError
from squad_options import SquadConfig
from squad_utils import Answer, Example

PREDICTIONS, N_BEST, NULL_ODDS = "predictions.json", "nbest_predictions.json", "null_odds.json"


class Answers(NamedTuple):
    """What an evaluation found for each question, by id."""

    nbest: Dict[str, List[Answer]]
    null_odds: Dict[str, float]  # empty in 1.1

    def predictions(self, config: SquadConfig) -> Dict[str, str]:
        threshold = config.null_score_diff_threshold if config.version_2_with_negative else None
        return squad_utils.predictions(self.nbest, self.null_odds, threshold)


def scores_of(config: SquadConfig, examples: Sequence[Example], answers: Answers) -> Dict[str, float]:
    """The official scores; in 2.0 at the fixed threshold, and `best_*` at the best one."""
    metric, version_2 = squad_metrics.named(config.metric, config.language), config.version_2_with_negative
    scores = squad_metrics.evaluate(examples, answers.predictions(config), version_2, metric=metric)
    if version_2:
        raw = squad_utils.predictions(answers.nbest, answers.null_odds)
        searched = squad_metrics.evaluate(examples, raw, version_2, answers.null_odds, metric=metric)
        scores.update({name: value for name, value in searched.items() if name.startswith("best_")},
                      null_score_diff_threshold=config.null_score_diff_threshold)
    return scores


def write(config: SquadConfig, answers: Answers):
    written = {PREDICTIONS: answers.predictions(config), N_BEST: {
        id_: [answer._asdict() for answer in found] for id_, found in answers.nbest.items()}}
    if config.version_2_with_negative:
        written[NULL_ODDS] = answers.null_odds
    for name, content in written.items():  # in ASCII: a lone surrogate of the data has no UTF-8 form
        files.write_text(os.path.join(config.output_dir, name), json.dumps(content, indent=1) + "\n")


def read(folder: str, examples: Sequence[Example], version_2: bool, questions: str) -> Answers:
    """The answers of an evaluation.

    Args:
        questions: the file of `examples`.
    Raises: UserError: a file is missing or damaged, or holds answers to other questions.
    """
    path = os.path.join(folder, N_BEST)
    nbest, null_odds = configuration.read_json_object(path), {}
    if version_2:
        null_odds = configuration.read_json_object(os.path.join(folder, NULL_ODDS))
    refuse_other_questions(folder, examples, nbest, questions)
    found = {}
    for example in examples:
        try:
            found[example.id] = [_answer(entry) for entry in nbest[example.id]]
            float(null_odds[example.id]) if version_2 else None
        except (TypeError, ValueError, KeyError) as error:
            raise UserError(f"{path} or {NULL_ODDS} beside it is damaged at question "
                            f"{configuration.in_brief(example.id)}: run the evaluation again.") from error
        if not found[example.id] or any(example.context[a.start:a.end] != a.text for a in found[example.id]):
            raise UserError(f"{folder} holds answers to other questions than {questions}: the text of question "
                            f"{configuration.in_brief(example.id)} differs.")
    return Answers(found, {example.id: float(null_odds[example.id]) for example in examples} if version_2 else {})


def _answer(entry: dict) -> Answer:
    known = {name: entry[name] for name in ("text", "start", "end", "score", "probability")}
    if type(known["text"]) is not str or not all(type(known[name]) is int for name in ("start", "end")):
        raise TypeError("not an answer")
    return Answer(**{**known, "score": float(known["score"]), "probability": float(known["probability"])})


def refuse_other_questions(folder: str, examples: Sequence[Example], nbest: dict, questions: str):
    ids = [example.id for example in examples]
    other = next((id_ for id_ in ids if id_ not in nbest), None) or next((id_ for id_ in nbest if id_ not in set(ids)),
                                                                         None)
    if other is not None:
        where = "only in the answers" if other in nbest else "only in the file"
        raise UserError(f"{folder} holds answers to other questions than {questions}: question "
                        f"{configuration.in_brief(other)} is {where}. Name the file they were predicted for, or leave "
                        "the folder out.")


def evaluated_on(config: SquadConfig) -> dict:
    """The part of results.json that says how it was evaluated, for analysis.py."""
    return {"predict_file": os.path.abspath(config.data_file("dev")), "metric": config.metric,
            "language": config.language}
