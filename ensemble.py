"""Several evaluations as one, for run_tf_squad.py --ensemble. Only their files are needed, no model and no TensorFlow:

    p(text) = mean over the models of the probability that each gives to the text, 0 where it is not in its n-best list
    null odds = mean over the models of their null odds, which are log odds

The answer is the text with the highest p, or none where the null odds exceed --null_score_diff_threshold.
"""
from __future__ import annotations

import math
import os
from typing import Dict, List, Sequence

from absl import logging

import analysis
import files
import preflight
import run_log
import squad_results
import squad_utils
from configuration import UserError
from squad_options import SquadConfig
from squad_results import Answers
from squad_utils import Answer


def combine(members: Sequence[Answers], n_best_size: int) -> Answers:
    """The answers of an ensemble; `score` is the logarithm of the probability."""
    nbest = {}
    for id_ in members[0].nbest:
        spans: Dict[str, Answer] = {}  # by text: the span of the member that is most certain of it
        total: Dict[str, float] = {}
        for member in members:
            for answer in member.nbest[id_]:
                total[answer.text] = total.get(answer.text, 0.0) + answer.probability
                if answer.text not in spans or answer.probability > spans[answer.text].probability:
                    spans[answer.text] = answer
        best = sorted(total, key=lambda text: -total[text])[:n_best_size]  # equal ones keep their order
        nbest[id_] = [spans[text]._replace(probability=total[text] / len(members),
                                           score=math.log(max(total[text] / len(members), 1e-300))) for text in best]
    null_odds = {id_: sum(member.null_odds[id_] for member in members) / len(members) for id_ in members[0].null_odds}
    return Answers(nbest, null_odds)


def folders_of(config: SquadConfig) -> List[str]:
    """The folders of --ensemble. Raises: UserError: fewer than two, one twice, or one without answers."""
    folders = [folder.strip() for folder in config.ensemble.split(",") if folder.strip()]
    for folder in folders:
        if not os.path.isfile(os.path.join(folder, squad_results.N_BEST)):
            raise UserError(f"--ensemble: {folder} has no {squad_results.N_BEST}: name folders that run_tf_squad.py "
                            "has written its predictions to.")
    if len({os.path.realpath(folder) for folder in folders}) < max(2, len(folders)):
        raise UserError(f"--ensemble={config.ensemble} must name two or more different folders, separated by commas.")
    if os.path.realpath(config.output_dir) in map(os.path.realpath, folders):
        raise UserError(f"--output_dir={config.output_dir} is a member of --ensemble and would be overwritten: name "
                        "another folder.")
    return folders


def before_tensorflow(config: SquadConfig) -> bool:
    """Checks a call of run_tf_squad.py, and does the work of --ensemble. Returns: whether nothing else is to be done.

    Raises: UserError.
    """
    preflight.check_squad(config)
    if config.ensemble:
        run(config)
    return bool(config.ensemble)


def run(config: SquadConfig):
    """Answers as an ensemble, scores, and writes what an evaluation writes. Raises: UserError."""
    folders, questions = folders_of(config), config.data_file("dev")
    examples = squad_utils.read_squad(questions, config.version_2_with_negative, config.do_eval,
                                      squad_utils.Offsets.IGNORE)
    members = [squad_results.read(folder, examples, config.version_2_with_negative, questions) for folder in folders]
    answers = combine(members, config.n_best_size)
    if config.check_only:
        return
    with config.sole_user():
        run_log.start_logging(config.output_dir, "logfile", suffix="txt")
        squad_results.write(config, answers)
        results = {"version_2": config.version_2_with_negative, "ensemble": folders,
                   **squad_results.evaluated_on(config)}
        if config.do_eval:
            results.update(squad_results.scores_of(config, examples, answers))
            analysis.write_after_evaluation(config, examples, answers)
        files.write_json(os.path.join(config.output_dir, "results.json"), results)
        if config.do_eval:
            logging.info("EM %.2f  F1 %.2f", results.get("exact", results.get("exact_match")), results["f1"])
        logging.info("%d models answered %d questions together; the results are in %s.", len(folders), len(examples),
                     config.output_dir)
